"""Add purges of deposits."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("deposits") as batch_op:
        batch_op.add_column(sa.Column("purged_at", sa.DateTime(timezone=True)))
        batch_op.add_column(sa.Column("purged_by", sa.String(100)))
        batch_op.add_column(sa.Column("purge_reason", sa.Text()))
