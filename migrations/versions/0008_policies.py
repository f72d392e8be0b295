"""Add model policies and requests for approval."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("models") as batch_op:
        batch_op.add_column(sa.Column("original_policy", sa.String(10), server_default="seal", nullable=False))
        batch_op.add_column(sa.Column("needs_second_person", sa.Boolean(), server_default=sa.false(), nullable=False))
        batch_op.add_column(sa.Column("policy_version", sa.Integer(), server_default="1", nullable=False))
    op.create_table(
        "approvals",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("model_id", sa.String(36), nullable=False),
        sa.Column("act", sa.String(20), nullable=False),
        sa.Column("wish", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("requested_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("requested_by", sa.String(100), nullable=False),
        sa.Column("requested_key_id", sa.String(36), nullable=False),
        sa.Column("expires_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decision", sa.String(10)),
        sa.Column("decided_at", sa.DateTime(timezone=True)),
        sa.Column("decided_by", sa.String(100)),
        sa.Column("decision_reason", sa.Text()),
        sa.Column("result_id", sa.String(64)),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_approvals_model_id"),
        sa.PrimaryKeyConstraint("id", name="pk_approvals"),
    )
    op.create_index("ix_approvals_model_id", "approvals", ["model_id"])
