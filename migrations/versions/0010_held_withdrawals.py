"""Add held withdrawals, which need a token."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("withdrawals") as batch_op:
        batch_op.add_column(sa.Column("visibility", sa.String(10), nullable=False, server_default="public"))
        batch_op.add_column(sa.Column("token_digest", sa.String(64)))
