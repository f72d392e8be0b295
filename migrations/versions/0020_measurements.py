"""what a deposit costs, the bounds of a model's policy, and measurements of a model with deposits withdrawn"""

import sqlalchemy as sa
from alembic import op

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("models") as batch_op:
        for name, points in (("max_preserved_loss", "5"), ("max_module_loss", "5"), ("max_total_loss", "10")):
            batch_op.add_column(sa.Column(name, sa.Float(), nullable=False, server_default=points))
    with op.batch_alter_table("deposits") as batch_op:
        batch_op.add_column(sa.Column("losses", sa.JSON()))
    op.create_table(
        "measurements",
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
        sa.Column("evaluation_set_id", sa.String(36), nullable=False),
        sa.Column("deposit_ids", sa.JSON()),
        sa.Column("revision", sa.Integer()),
        sa.Column("original", sa.JSON()),
        sa.Column("warnings", sa.JSON()),
        sa.Column("views", sa.JSON()),
        sa.ForeignKeyConstraint(["model_id"], ["models.id"], name="fk_measurements_model_id"),
        sa.ForeignKeyConstraint(["evaluation_set_id"], ["datasets.id"], name="fk_measurements_evaluation_set_id"),
        sa.PrimaryKeyConstraint("id", name="pk_measurements"),
    )
    op.create_index("ix_measurements_state_rung_at", "measurements", ["state", "rung_at"])
    op.create_index("ix_measurements_model_id_state", "measurements", ["model_id", "state"])
    _name_the_network_before()


def _name_the_network_before() -> None:
    """Metrics called the network before the deposit `original`, which it is only of a model's first deposit."""
    connection = op.get_bind()
    deposits = sa.table("deposits", sa.column("id"), sa.column("revision"), sa.column("metrics", sa.JSON()))
    measured = sa.select(deposits).where(deposits.c.revision.is_not(None))
    for row in connection.execute(measured).all():
        if row.metrics and "before" not in row.metrics:
            before = row.metrics["original"]
            metrics = {**row.metrics, "before": before, "original": before if row.revision == 1 else None}
            connection.execute(sa.update(deposits).where(deposits.c.id == row.id).values(metrics=metrics))
