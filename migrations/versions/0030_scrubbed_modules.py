"""scrubbed modules wait beside those in use, and the policy says until when

Models that exist keep `deposit`: their modules were scrubbed at each later deposit, and an upgrade must not change that.
"""

import sqlalchemy as sa
from alembic import op

revision = "0030"
down_revision = "0029"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("models", sa.Column("scrub", sa.String(10), nullable=False, server_default="deposit"))
    op.add_column("deposits", sa.Column("scrubbed_loss", sa.Float()))
    op.add_column("deposits", sa.Column("replaced_loss", sa.Float(), nullable=False, server_default="0"))
    op.add_column("deposits", sa.Column("scrubbed_to", sa.Integer()))
    # Until now every module was scrubbed at each later deposit.
    op.execute(
        "UPDATE deposits SET scrubbed_to = (SELECT revision FROM models WHERE models.id = deposits.model_id) "
        "WHERE state = 'deposited'"
    )
    for table in ("models", "measurements"):
        op.add_column(table, sa.Column("module_replacements", sa.Integer(), nullable=False, server_default="0"))
    # Alembic would make the table anew on SQLite, where other tables refer to it.
    op.execute(
        "ALTER TABLE deposits ADD COLUMN scrubbed_object_id VARCHAR(36) "
        "CONSTRAINT fk_deposits_scrubbed_object_id REFERENCES vault_objects (id)"
    )
