"""keys are bound to models, have unique names, and know who made them"""

import unicodedata
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"
branch_labels = None
depends_on = None

LOCAL, UNKNOWN = "local", "unknown"


def upgrade() -> None:
    with op.batch_alter_table("api_keys") as batch_op:
        batch_op.add_column(sa.Column("normal_name", sa.String(200)))
        batch_op.add_column(sa.Column("models", sa.JSON(none_as_null=True)))
        batch_op.add_column(sa.Column("made_by_id", sa.String(36), server_default=UNKNOWN, nullable=False))
        batch_op.add_column(sa.Column("person_id", sa.String(36), server_default=UNKNOWN, nullable=False))
        batch_op.add_column(sa.Column("ended_at", sa.DateTime(timezone=True)))
    _fill_in(op.get_bind())
    with op.batch_alter_table("api_keys") as batch_op:
        batch_op.alter_column("made_by_id", server_default=None)
        batch_op.alter_column("person_id", server_default=None)
        batch_op.create_unique_constraint("uq_api_keys_normal_name", ["normal_name"])


def _fill_in(connection: sa.Connection) -> None:
    """Who made each key, from the audit, which named the maker only by its name.

    A name that several keys have had by then, or that no key has had, is 'unknown': all such keys count as one person.
    """
    names = ("id", "name", "revoked_at", "normal_name", "made_by_id", "person_id")
    keys = sa.table("api_keys", *map(sa.column, names))
    events = sa.table("audit_events", *map(sa.column, ("actor", "action", "subject", "number")))
    made = sa.select(events.c.subject, events.c.actor).where(events.c.action == "key.created")
    maker_of = dict(connection.execute(made.order_by(events.c.number)).all())
    ids_by_name: dict[str, list[str]] = {}
    persons: dict[str, str] = {}
    taken: set[str] = set()
    for row in connection.execute(sa.select(keys.c.id, keys.c.name, keys.c.revoked_at).order_by(keys.c.id)).all():
        maker = _maker(maker_of.get(row.id), ids_by_name)
        persons[row.id] = row.id if maker == LOCAL else persons.get(maker, UNKNOWN)
        values: dict[str, Any] = {"made_by_id": maker, "person_id": persons[row.id]}
        normal = _normal_form(row.name)
        if row.revoked_at is None and normal not in taken and len(normal) <= 200:
            taken.add(normal)
            values["normal_name"] = normal
        connection.execute(sa.update(keys).where(keys.c.id == row.id).values(values))
        ids_by_name.setdefault(row.name, []).append(row.id)


def _maker(name: str | None, ids_by_name: dict[str, list[str]]) -> str:
    ids = ids_by_name.get(name or "", [])
    if name == "local administrator" and not ids:
        return LOCAL
    return ids[0] if len(ids) == 1 and name != "local administrator" else UNKNOWN


def _normal_form(name: str) -> str:
    folded = unicodedata.normalize("NFKC", name).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())
