"""Cursor pagination, for every listing. Rows are ordered by id, which is the order of their creation."""

from collections.abc import Sequence
from typing import Any, Generic, TypeVar

import sqlalchemy as sa
from pydantic import BaseModel, Field
from sqlalchemy.orm import InstrumentedAttribute, Session

from app.base.field_types import Id

ItemT = TypeVar("ItemT")
RowT = TypeVar("RowT")


class Page(BaseModel, Generic[ItemT]):
    """One page of items and, if there are more, the cursor of the next page."""

    items: list[ItemT]
    next_cursor: str | None = Field(description="Send it as `cursor` to get the next page. Null on the last page.")


class PageRequest(BaseModel):
    limit: int = Field(50, ge=1, le=500)
    cursor: Id | None = None


def newest_first(
    session: Session, query: sa.Select[RowT], id_column: InstrumentedAttribute[str], page: PageRequest
) -> tuple[Sequence[RowT], str | None]:
    """The rows of one page, newest first, and the cursor of the next page (None on the last)."""
    if page.cursor:
        query = query.where(id_column < page.cursor)
    rows = session.scalars(query.order_by(id_column.desc()).limit(page.limit + 1)).all()
    if len(rows) <= page.limit:
        return rows, None
    last: Any = rows[page.limit - 1]
    return rows[: page.limit], last.id
