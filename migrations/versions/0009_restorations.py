"""Add restorations of deposits."""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("deposits") as batch_op:
        batch_op.add_column(sa.Column("restored_at", sa.DateTime(timezone=True)))
        batch_op.add_column(sa.Column("restored_by", sa.String(100)))
        batch_op.add_column(sa.Column("restore_reason", sa.Text()))
        batch_op.create_index("ix_deposits_model_id_restored_at", ["model_id", "restored_at"])
