"""Cursor pagination for every listing: rows are ordered by their time-ordered id."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.base.field_types import Id

ItemT = TypeVar("ItemT")
RowT = TypeVar("RowT")


class Page(BaseModel, Generic[ItemT]):
    """Items and, where there are more, the cursor for the next page."""

    items: list[ItemT]
    next_cursor: str | None = Field(description="Give it as `cursor` for the next page; null at the end.")


class PageRequest(BaseModel):
    limit: int = Field(50, ge=1, le=500)
    cursor: Id | None = None


def newest_first(
    session: Session, query: sa.Select[RowT], id_column: InstrumentedAttribute[str], page: PageRequest
) -> tuple[Sequence[RowT], str | None]:
    """The rows of one page, newest first, and the cursor of the next."""
    if page.cursor:
        query = query.where(id_column < page.cursor)
    rows = session.scalars(query.order_by(id_column.desc()).limit(page.limit + 1)).all()
    if len(rows) <= page.limit:
        return rows, None
    last: Any = rows[page.limit - 1]
    return rows[: page.limit], last.id
