"""Chain the audit events and make them append-only."""

import json
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from app.audit import chain

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

NEW: dict[str, sa.types.TypeEngine[object]] = {
    "number": sa.BigInteger(),
    "previous": sa.String(64),
    "digest": sa.String(64),
}


def upgrade() -> None:
    with op.batch_alter_table("audit_events") as batch_op:
        for name, kind in NEW.items():
            batch_op.add_column(sa.Column(name, kind))
    head = _chain_existing_events()
    with op.batch_alter_table("audit_events") as batch_op:
        for name, kind in NEW.items():
            batch_op.alter_column(name, existing_type=kind, nullable=False)
        batch_op.create_unique_constraint("uq_audit_events_number", ["number"])
    heads = op.create_table(
        "audit_head",
        sa.Column("id", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("digest", sa.String(length=64), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_audit_head")),
    )
    op.bulk_insert(heads, [{"id": 1, "number": head.number, "digest": head.digest}])
    _refuse_changes()


def _chain_existing_events() -> chain.Head:
    events = sa.table("audit_events", *[sa.column(name) for name in (*chain.FIELDS, "number", "previous", "digest")])
    connection = op.get_bind()
    head = chain.Head(0, chain.GENESIS)
    for row in connection.execute(sa.select(events).order_by(events.c.id)).mappings().all():
        event = dict(row)
        at = datetime.fromisoformat(event["at"]) if isinstance(event["at"], str) else event["at"]
        event["at"] = (at.replace(tzinfo=UTC) if at.tzinfo is None else at).astimezone(UTC)
        event["details"] = json.loads(event["details"]) if isinstance(event["details"], str) else event["details"]
        digest = chain.digest_of(head.number + 1, head.digest, event)
        values = {"number": head.number + 1, "previous": head.digest, "digest": digest}
        connection.execute(sa.update(events).where(events.c.id == event["id"]).values(**values))
        head = chain.Head(head.number + 1, digest)
    return head


def _refuse_changes() -> None:
    message = "audit events are only ever added"
    if op.get_bind().dialect.name == "sqlite":
        for act in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER audit_events_refuse_{act.lower()} BEFORE {act} ON audit_events "
                f"BEGIN SELECT RAISE(ABORT, '{message}'); END"
            )
        return
    op.execute(
        "CREATE FUNCTION refuse_audit_change() RETURNS trigger LANGUAGE plpgsql AS "
        f"$$ BEGIN RAISE EXCEPTION '{message}'; END $$"
    )
    for act, level in (("UPDATE", "ROW"), ("DELETE", "ROW"), ("TRUNCATE", "STATEMENT")):
        op.execute(
            f"CREATE TRIGGER audit_events_refuse_{act.lower()} BEFORE {act} ON audit_events "
            f"FOR EACH {level} EXECUTE FUNCTION refuse_audit_change()"
        )
