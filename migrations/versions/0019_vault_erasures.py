"""shredded objects that may still have traces, so that an erasure which is interrupted or in somebody's way goes on"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "vault_erasures",
        sa.Column("object_id", sa.String(36), nullable=False),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("model_id", sa.String(36), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("obstacle", sa.Text(), nullable=True),
        sa.PrimaryKeyConstraint("object_id", name="pk_vault_erasures"),
    )
    op.create_index("ix_vault_erasures_model_id", "vault_erasures", ["model_id"])
    op.create_index("ix_vault_erasures_name", "vault_erasures", ["name"])
