"""rebases, which make a model's target and outstanding modules anew"""

import sqlalchemy as sa
from alembic import op

revision = "0032"
down_revision = "0031"
branch_labels = None
depends_on = None

_IS_UNFINISHED = sa.text("state in ('queued', 'running')")


def upgrade() -> None:
    op.add_column("deposits", sa.Column("module_revision", sa.Integer()))
    op.create_table(
        "rebases",
        sa.Column("id", sa.String(36), nullable=False),
        sa.Column("state", sa.String(20), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("created_by", sa.String(100), nullable=False),
        sa.Column("started_at", sa.DateTime(timezone=True)),
        sa.Column("finished_at", sa.DateTime(timezone=True)),
        sa.Column("rung_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("token", sa.Integer(), nullable=False),
        sa.Column("lease_until", sa.DateTime(timezone=True)),
        sa.Column("is_cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("failure", sa.Text()),
        sa.Column("model_id", sa.String(36), nullable=False),
        sa.Column("dataset_id", sa.String(36)),
        sa.Column("evaluation_set_id", sa.String(36)),
        sa.Column("keeps_dataset", sa.Boolean(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("curve", sa.JSON()),
        sa.Column("revision", sa.Integer()),
        sa.Column("deposits", sa.JSON()),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_rebases_model_id"),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_rebases_dataset_id"),
        sa.ForeignKeyConstraint(["evaluation_set_id"], ["datasets.id"], name="fk_rebases_evaluation_set_id"),
        sa.PrimaryKeyConstraint("id", name="pk_rebases"),
    )
    op.create_index("ix_rebases_state_rung_at", "rebases", ["state", "rung_at"])
    op.create_index("ix_rebases_model_id", "rebases", ["model_id"])
    op.create_index(
        "uq_rebases_unfinished",
        "rebases",
        ["model_id"],
        unique=True,
        sqlite_where=_IS_UNFINISHED,
        postgresql_where=_IS_UNFINISHED,
    )
