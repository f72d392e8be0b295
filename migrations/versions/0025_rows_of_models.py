"""models store the rows of their last layer apart from the rest of the upper part

Rows that are stored already are separated later, by `app.deposits.separation`: only it has the master key.
"""

from alembic import op

revision = "0025"
down_revision = "0024"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Alembic would make the table anew on SQLite, where other tables refer to it.
    op.execute(
        "ALTER TABLE models ADD COLUMN rows_object_id VARCHAR(36) "
        "CONSTRAINT fk_models_rows_object_id REFERENCES vault_objects (id)"
    )
