"""models that an administrator removed keep their row, so that the audit and certificates refer to something"""

import sqlalchemy as sa
from alembic import op

revision = "0024"
down_revision = "0023"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("models") as batch_op:
        batch_op.add_column(sa.Column("removed_at", sa.DateTime(timezone=True), nullable=True))
        batch_op.add_column(sa.Column("removed_by", sa.String(100), nullable=True))
        batch_op.add_column(sa.Column("removal_reason", sa.Text(), nullable=True))
