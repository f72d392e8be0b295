"""PostgreSQL keeps no statistics of wrapped keys

ANALYZE stores values of a column as they are. A purge could not reach a wrapped key there.
"""

from alembic import op

revision = "0026"
down_revision = "0025"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "postgresql":
        # A change of the type, also to the same type, removes the statistics that there are.
        op.execute("ALTER TABLE vault_objects ALTER COLUMN wrapped_key TYPE bytea")
        op.execute("ALTER TABLE vault_objects ALTER COLUMN wrapped_key SET STATISTICS 0")
