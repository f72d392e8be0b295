"""deposits of single images, and preserved sets of deposits"""

import sqlalchemy as sa
from alembic import op

revision = "0029"
down_revision = "0028"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deposits", sa.Column("kind", sa.String(20), nullable=False, server_default="classes"))
    op.add_column("deposits", sa.Column("keeps_preserved_set", sa.Boolean(), nullable=False, server_default=sa.false()))
    # Alembic would make the table anew on SQLite, where other tables refer to it.
    op.execute(
        "ALTER TABLE deposits ADD COLUMN preserved_set_id VARCHAR(36) "
        "CONSTRAINT fk_deposits_preserved_set_id REFERENCES datasets (id)"
    )
