"""an examination has attackers of a strength, and may train a reference from images that were uploaded for it"""

from alembic import op

revision = "0028"
down_revision = "0027"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Alembic would make the table anew on SQLite, where other tables refer to it.
    op.execute("ALTER TABLE evidence ADD COLUMN attackers VARCHAR(8) NOT NULL DEFAULT 'small'")
    op.execute("ALTER TABLE evidence ADD COLUMN keeps_reference_set BOOLEAN NOT NULL DEFAULT false")
    op.execute(
        "ALTER TABLE evidence ADD COLUMN reference_set_id VARCHAR(36) "
        "CONSTRAINT fk_evidence_reference_set_id REFERENCES datasets (id)"
    )
    op.execute(
        "ALTER TABLE evidence ADD COLUMN reference_object_id VARCHAR(36) "
        "CONSTRAINT fk_evidence_reference_object_id REFERENCES vault_objects (id)"
    )
