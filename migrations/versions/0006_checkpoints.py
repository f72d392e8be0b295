"""Add checkpoints of deposits."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "deposit_checkpoints",
        sa.Column("deposit_id", sa.String(36), nullable=False),
        sa.Column("part", sa.String(36), nullable=False),
        sa.Column("object_id", sa.String(36), nullable=False),
        sa.ForeignKeyConstraint(["deposit_id"], ["deposits.id"], name="fk_deposit_checkpoints_deposit_id"),
        sa.ForeignKeyConstraint(["object_id"], ["vault_objects.id"], name="fk_deposit_checkpoints_object_id"),
        sa.PrimaryKeyConstraint("deposit_id", "part", name="pk_deposit_checkpoints"),
    )
    with op.batch_alter_table("deposits") as batch_op:
        batch_op.add_column(sa.Column("is_batch_halved", sa.Boolean(), server_default=sa.false(), nullable=False))
