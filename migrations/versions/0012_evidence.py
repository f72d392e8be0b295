"""Add evidence."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "evidence",
        sa.Column("id", sa.String(36), primary_key=True),
        sa.Column("deposit_id", sa.String(36), sa.ForeignKey("deposits.id"), nullable=False, index=True),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("evaluation_set_id", sa.String(36), sa.ForeignKey("datasets.id"), nullable=False),
        sa.Column("members_id", sa.String(36), sa.ForeignKey("datasets.id")),
        sa.Column("reference_id", sa.String(36), sa.ForeignKey("models.id")),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("rung_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("failure", sa.Text()),
        sa.Column("revision", sa.Integer()),
        sa.Column("found", sa.JSON()),
    )
    is_unfinished = sa.text("state IN ('queued', 'running')")
    op.create_index(
        "uq_evidence_unfinished",
        "evidence",
        ["deposit_id"],
        unique=True,
        sqlite_where=is_unfinished,
        postgresql_where=is_unfinished,
    )
    op.create_index("ix_evidence_state_rung_at", "evidence", ["state", "rung_at"])
    with op.batch_alter_table("deposits") as batch_op:
        # Nobody has requested evidence of the existing deposits.
        batch_op.add_column(sa.Column("wants_evidence", sa.Boolean(), nullable=False, server_default=sa.false()))
