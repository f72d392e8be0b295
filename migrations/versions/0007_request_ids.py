"""Give audit events a request id."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not in a batch: in a batch, SQLite creates the table again and loses its triggers.
    op.add_column("audit_events", sa.Column("request_id", sa.String(64)))
    op.create_index("ix_audit_events_request_id", "audit_events", ["request_id"])
