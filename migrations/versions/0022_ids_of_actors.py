"""audit events and decisions name the key or user that acted by its id"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Not in a batch: in a batch, SQLite creates the table again and loses its triggers.
    op.add_column("audit_events", sa.Column("actor_id", sa.String(36)))
    op.create_index("ix_audit_events_actor_id", "audit_events", ["actor_id"])
    op.add_column("approvals", sa.Column("decided_key_id", sa.String(36)))
