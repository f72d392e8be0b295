import logging
import threading
import time

import sqlalchemy as sa
from fastapi import APIRouter, Request

from app.api.dependencies import IdlePartsDep
from app.api.problems import RETRY_SECONDS
from app.base.database import Database
from app.base.errors import Problem
from app.inference.schemas import Health

router = APIRouter(prefix="/v2/health", tags=["health"])
log = logging.getLogger(__name__)
POLL_SECONDS = 1.0
STALE_SECONDS = 10.0  # after which a database that has not answered counts as away; a busy one may take some seconds


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
async def is_ready(request: Request, idle_parts: IdlePartsDep) -> Health:
    """Check that the database answers and, under `lirf up`, that the worker and the reconciler work."""
    health: DatabaseHealth = request.state.database_health
    if not health.answers:
        advice = "The database does not answer. Check that it is running and that LIRF_DATABASE_URL is correct."
        raise NotReady(advice, retry_after=RETRY_SECONDS)
    if idle_parts:
        advice = f"The {' and the '.join(idle_parts)} of `lirf up` does not work (yet). Its log has the reason."
        raise NotReady(advice, retry_after=RETRY_SECONDS)
    return Health()


class DatabaseHealth:
    """Asks the database all the time, so that an answer about health waits neither for it nor for a thread."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._answered_at: float | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._poll, name="health", daemon=True)

    @property
    def answers(self) -> bool:
        """Whether the database answered when it was asked last, which was a moment ago."""
        answered_at = self._answered_at
        return answered_at is not None and time.monotonic() - answered_at < STALE_SECONDS

    def start(self) -> None:
        """Ask once, then go on in a thread."""
        self._ask()
        self._thread.start()

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _poll(self) -> None:
        while not self._stop.wait(POLL_SECONDS):
            self._ask()

    def _ask(self) -> None:
        try:
            with self._database.reading() as session:
                session.execute(sa.text("SELECT 1"))
            self._answered_at = time.monotonic()
        except sa.exc.SQLAlchemyError as error:
            if self._answered_at is not None:
                log.warning("the database does not answer: %s", type(error).__name__)
            self._answered_at = None
