"""checkpoints of every kind of job in one table; an examination, too, remembers that it was cancelled"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "job_checkpoints",
        sa.Column("job_id", sa.String(36), nullable=False),
        sa.Column("part", sa.String(36), nullable=False),
        sa.Column("object_id", sa.String(36), nullable=False),
        sa.ForeignKeyConstraint(["object_id"], ["vault_objects.id"], name="fk_job_checkpoints_object_id"),
        sa.PrimaryKeyConstraint("job_id", "part", name="pk_job_checkpoints"),
    )
    op.execute(
        "INSERT INTO job_checkpoints (job_id, part, object_id) SELECT deposit_id, part, object_id FROM deposit_checkpoints"
    )
    op.drop_table("deposit_checkpoints")
    with op.batch_alter_table("evidence") as batch_op:
        batch_op.add_column(sa.Column("is_cancel_requested", sa.Boolean(), server_default=sa.false(), nullable=False))
