import sqlalchemy as sa
from anyio.to_thread import run_sync
from fastapi import APIRouter, Request

from app.api.dependencies import DatabaseDep, IdlePartsDep
from app.api.problems import RETRY_SECONDS
from app.base.database import Database
from app.base.errors import Problem
from app.inference.schemas import Health

router = APIRouter(prefix="/v2/health", tags=["health"])


class NotReady(Problem):
    """The database does not answer, or a part that `lirf up` runs does not work. The detail says which. Check that
    the database is running and that `LIRF_DATABASE_URL` is right, and read the log."""

    status, slug, title = 503, "not-ready", "The service is not ready"


@router.get("/live")
@router.head("/live", include_in_schema=False)
async def is_live() -> Health:
    """Check that the process answers."""
    return Health()


@router.get("/ready")
@router.head("/ready", include_in_schema=False)
async def is_ready(request: Request, database: DatabaseDep, idle_parts: IdlePartsDep) -> Health:
    """Check that the database answers and, under `lirf up`, that the worker and the reconciler work."""
    try:
        # In a thread of its own, which no other request can hold.
        await run_sync(_ask, database, limiter=request.state.health_limiter)
    except sa.exc.SQLAlchemyError as error:
        advice = "The database does not answer. Check that it is running and that LIRF_DATABASE_URL is correct."
        raise NotReady(advice, retry_after=RETRY_SECONDS) from error
    if idle_parts:
        advice = f"The {' and the '.join(idle_parts)} of `lirf up` does not work (yet). Its log has the reason."
        raise NotReady(advice, retry_after=RETRY_SECONDS)
    return Health()


def _ask(database: Database) -> None:
    with database.reading() as session:
        session.execute(sa.text("SELECT 1"))
