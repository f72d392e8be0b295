"""one deposit job can make several deposits, one for each group of its classes"""

import sqlalchemy as sa
from alembic import op

revision = "0031"
down_revision = "0030"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Alembic would make the table anew on SQLite, where other tables refer to it.
    op.execute(
        "ALTER TABLE deposits ADD COLUMN made_with VARCHAR(36) CONSTRAINT fk_deposits_made_with REFERENCES deposits (id)"
    )
    op.create_index("ix_deposits_made_with", "deposits", ["made_with"])
    op.add_column("deposit_classes", sa.Column("group_id", sa.String(36)))
    op.create_index("ix_deposit_classes_group_id", "deposit_classes", ["group_id"])
