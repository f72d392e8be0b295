"""Index audit events by model or subject and action, for certificates."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    for column in ("model", "subject"):
        op.create_index(f"ix_audit_events_{column}_action", "audit_events", [column, "action"])
        op.drop_index(f"ix_audit_events_{column}", "audit_events")
