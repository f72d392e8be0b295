"""hardenings of targets, and whether a model's policy has them served

Models that exist keep `none`: their deposits were made without, and an upgrade must not change what they answer.
"""

import sqlalchemy as sa
from alembic import op

revision = "0027"
down_revision = "0026"
branch_labels = None
depends_on = None

_IS_UNFINISHED = sa.text("state in ('queued', 'running')")


def upgrade() -> None:
    with op.batch_alter_table("models") as batch_op:
        batch_op.add_column(sa.Column("hardening", sa.String(10), nullable=False, server_default="none"))
    op.create_table(
        "hardenings",
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
        sa.Column("deposit_id", sa.String(36), nullable=False),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("dataset_id", sa.String(36), nullable=False),
        sa.Column("evaluation_set_id", sa.String(36)),
        sa.Column("keeps_dataset", sa.Boolean(), nullable=False),
        sa.Column("config", sa.JSON(), nullable=False),
        sa.Column("curve", sa.JSON()),
        sa.Column("object_id", sa.String(36)),
        sa.Column("losses", sa.JSON()),
        sa.Column("shredded_at", sa.DateTime(timezone=True)),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_hardenings_model_id"),
        sa.ForeignKeyConstraint(["deposit_id"], ["deposits.id"], name="fk_hardenings_deposit_id"),
        sa.ForeignKeyConstraint(["dataset_id"], ["datasets.id"], name="fk_hardenings_dataset_id"),
        sa.ForeignKeyConstraint(["evaluation_set_id"], ["datasets.id"], name="fk_hardenings_evaluation_set_id"),
        sa.ForeignKeyConstraint(["object_id"], ["vault_objects.id"], name="fk_hardenings_object_id"),
        sa.PrimaryKeyConstraint("id", name="pk_hardenings"),
    )
    op.create_index("ix_hardenings_state_rung_at", "hardenings", ["state", "rung_at"])
    op.create_index("ix_hardenings_model_id_revision", "hardenings", ["model_id", "revision"])
    op.create_index(
        "uq_hardenings_unfinished",
        "hardenings",
        ["model_id"],
        unique=True,
        sqlite_where=_IS_UNFINISHED,
        postgresql_where=_IS_UNFINISHED,
    )
