"""Trust domains: the models that a caller may see and act on. Every query of a request obeys its caller's domain.

The filter hangs on the session and not on the routes, so a route or a table that is added later is covered as well.
"""

from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import ORMExecuteState, Session, with_loader_criteria

from app.base.database import Base

ANY: Final = "*"  # in a pattern: any characters, or none
# Tables that a row of a model owns, by the column that names the row. The first that a table has is used.
_OWNERS: Final = {"model_id": "models", "deposit_id": "deposits", "withdrawal_id": "withdrawals"}
# Tables that belong to the installation, although they have such a column. Their rows are reached through a model's.
_SHARED: Final = {"vault_objects"}


@dataclass(frozen=True)
class TrustDomain:
    """Models, by patterns of their names, such as `birds` or `eu-*`. None: all models of the installation."""

    patterns: tuple[str, ...] | None = None

    @property
    def is_bound(self) -> bool:
        return self.patterns is not None

    def has(self, name: str) -> bool:
        """Whether a model with this name, whether it exists or not, belongs to the domain."""
        return self.patterns is None or any(_matches(pattern, name) for pattern in self.patterns)

    def includes(self, other: "TrustDomain") -> bool:
        """Whether each pattern of the other domain is within one pattern of this one."""
        if self.patterns is None:
            return True
        # The star of a narrower pattern is a character like any other, which only a star matches.
        return other.patterns is not None and all(self.has(pattern) for pattern in other.patterns)

    def condition(self, name: sa.ColumnElement[str | None]) -> sa.ColumnElement[bool]:
        """`has` in SQL. Names have no upper-case letters, so that SQLite's LIKE and PostgreSQL's agree."""
        patterns = [pattern.replace("_", r"\_").replace(ANY, "%") for pattern in self.patterns or ()]
        return sa.or_(sa.false(), *(name.like(pattern, escape="\\") for pattern in patterns))

    def __str__(self) -> str:
        return ", ".join(f"'{pattern}'" for pattern in self.patterns or (ANY,))


EVERYTHING: Final = TrustDomain()
NOTHING: Final = TrustDomain(())
EVERYWHERE: Final = {"is_everywhere": True}  # execution options of a query that does not obey the caller's domain
# Outside a request, in the worker for example, everything. A request sees nothing until its caller is known.
current: ContextVar[TrustDomain] = ContextVar("trust_domain", default=EVERYTHING)


def _matches(pattern: str, name: str) -> bool:
    """In time proportional to the lengths, unlike a regular expression with several stars."""
    first, *rest = pattern.split(ANY)
    if not rest:
        return name == pattern
    *middle, last = rest
    if not name.startswith(first) or not name.endswith(last):
        return False
    start, end = len(first), len(name) - len(last)
    for piece in middle:
        found_at = name.find(piece, start, end)
        if found_at < 0:
            return False
        start = found_at + len(piece)
    return start <= end


def is_covered(table: sa.Table) -> bool:
    """Whether rows of the table are seen only within the caller's domain."""
    return _condition(table, NOTHING) is not None


def _condition(table: Any, domain: TrustDomain) -> sa.ColumnElement[bool] | None:
    """Which rows belong to the domain. None if the table belongs to the installation and not to models."""
    if table.name == "models":
        return domain.condition(table.c.name)
    if table.name in _SHARED:
        return None
    for column, owner_name in _OWNERS.items():
        if column in table.c:
            owner = Base.metadata.tables[owner_name]
            condition = _condition(owner, domain)
            assert condition is not None
            return table.c[column].in_(sa.select(owner.c.id).where(condition))  # type: ignore[no-any-return]
    return domain.condition(table.c.model) if "model" in table.c else None


@lru_cache(64)
def _options(domain: TrustDomain, mapped: int) -> list[Any]:
    """mapped: the number of mapped classes, since a module that is imported later may add some."""
    return list(_criteria(domain))


def _criteria(domain: TrustDomain) -> Iterator[Any]:
    for mapper in Base.registry.mappers:
        condition = _condition(mapper.local_table, domain)
        if condition is not None:
            yield with_loader_criteria(mapper.class_, condition, include_aliases=True)


@event.listens_for(Session, "do_orm_execute")
def _restrict(execution: ORMExecuteState) -> None:
    domain = current.get()
    is_exempt = execution.is_column_load or execution.is_relationship_load or execution.is_insert
    if not domain.is_bound or is_exempt or execution.execution_options.get("is_everywhere"):
        return
    execution.statement = execution.statement.options(*_options(domain, len(Base.registry.mappers)))
