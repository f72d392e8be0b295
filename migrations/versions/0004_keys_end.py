"""Give API keys an expiry time and a time of last use."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("api_keys") as batch_op:
        for name in ("expires_at", "last_used_at"):
            batch_op.add_column(sa.Column(name, sa.DateTime(timezone=True)))
