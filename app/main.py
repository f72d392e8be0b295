"""The HTTP application, as `serving` runs it."""

import gc
import importlib
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import sqlalchemy as sa
from anyio.to_thread import current_default_thread_limiter, run_sync
from fastapi import FastAPI
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.middleware.proxy_headers import ProxyHeadersMiddleware

from app.access.oidc import IdentityProvider
from app.api import problems
from app.api.admission import Admission
from app.api.approvals import router as approvals
from app.api.audit import router as audit
from app.api.authentication import Callers
from app.api.body_memory import BodyMemory
from app.api.certificates import router as certificates
from app.api.classes import router as classes
from app.api.datasets import router as datasets
from app.api.departures import Departures
from app.api.deposits import router as deposits
from app.api.event_streams import EventStreams
from app.api.evidence import router as evidence
from app.api.hardenings import router as hardenings
from app.api.health import DatabaseHealth
from app.api.health import router as health
from app.api.inference import router as inference
from app.api.inference import tensors
from app.api.keys import router as keys
from app.api.measurements import router as measurements
from app.api.metrics import router as metrics
from app.api.models import router as models
from app.api.models import streaming
from app.api.problems import ProblemDetails
from app.api.purges import router as purges
from app.api.rate_limit import RateLimit
from app.api.rebases import router as rebases
from app.api.request_log import RequestLog
from app.api.restorations import router as restorations
from app.api.revocations import EndRevoked
from app.api.withdrawals import router as withdrawals
from app.base.database import Database
from app.base.settings import Settings
from app.base.turns import Turns
from app.console.forms import router as console_forms
from app.console.pages import router as console_pages
from app.console.routing import FOLDER as CONSOLE
from app.inference.batches import BatchLimits
from app.inference.engine import THREADS, InferenceEngine
from app.jobs.doorbell import Doorbell
from app.telemetry import logs, traces
from app.telemetry.metrics import Metrics
from app.vault.service import open_vault
from lirf_core.compute import Compute
from lirf_core.images.decoding import Decoders

DESCRIPTION = """
Switch off what an image classifier knows of some classes, prove it, and switch it on again later
([Learning with Recoverable Forgetting](https://arxiv.org/abs/2207.08224)).

1. **Register** a model: `POST /v1/models`, then `PUT /v1/models/{name}/weights`.
2. **Deposit**: upload images of the classes to forget (`POST /v1/models/{name}/datasets`), then
   `POST /v1/models/{name}/deposits`, and follow its progress.
3. **Withdraw** and **revoke**: `POST /v1/withdrawals`, `DELETE /v1/withdrawals/{id}`.
   **Restore** a deposit to switch its classes back on for good: `POST /v1/deposits/{id}/restoration` (`DELETE` ends
   that). **Purge** it to destroy its deposit module for good: `POST /v1/deposits/{id}/purge`.
   If the model's policy (`PUT /v1/models/{name}/policy`) demands a second person, these requests get 202, and somebody
   with another key must approve them: `POST /v1/approvals/{id}/approve`.
4. **Predict**: `POST /v2/models/{name}/infer` (Open Inference Protocol), or an image at `/v1/models/{name}/predict`.

Every route except health and this description needs an API key: `Authorization: Bearer lirf_...`.
Errors are [problem details](https://www.rfc-editor.org/rfc/rfc9457) with a stable `type` and advice on what to do.
You can safely repeat a POST that has an `Idempotency-Key`: for a day, it gets its first answer and changes nothing.
"""


ROUTERS = (
    tensors,  # asked most, and routes are looked through in order
    models,
    streaming,
    classes,
    datasets,
    deposits,
    rebases,
    hardenings,
    evidence,
    measurements,
    certificates,
    withdrawals,
    restorations,
    purges,
    approvals,
    inference,
    audit,
    keys,
    health,
    metrics,
    console_forms,
    console_pages,
)

log = logging.getLogger(__name__)
HEALTH_PATH = "/v2/health/"
SWITCH_SECONDS = 0.0005  # for which a thread computes before another one that waits for the interpreter gets it
REPORTS = 4  # that are computed at the same time, such as verifications of the audit and certificates
THREADS_OF_ROUTES = 24  # each with a connection to the database, of which inference needs some of its own
UPLOADS = 4  # whose contents are checked and stored at the same time, at most half of them of one key
# Of the run whose lifespan begins.
_settings: ContextVar[Settings] = ContextVar("settings")
_idle_parts: ContextVar[Callable[[], list[str]]] = ContextVar("idle_parts")
_only_serves: ContextVar[bool] = ContextVar("only_serves")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Any]]:
    """What one run of the server works with, as `request.state` shows it to every request."""
    settings = _settings.get()
    current_default_thread_limiter().total_tokens = THREADS_OF_ROUTES
    database, vault = Database(settings.database), open_vault(settings)
    compute, decoders = Compute.for_inference(settings.device), Decoders(at_most=THREADS)
    limits = BatchLimits.from_settings(settings, compute.device)
    engine = InferenceEngine(database, vault, compute, settings.cache_bytes, limits)
    stop = threading.Event()
    cleaner = threading.Thread(target=_keep_clean, args=(engine, settings.reconcile_seconds, stop))
    cleaner.start()
    database_health = DatabaseHealth(database)
    await run_sync(database_health.start)
    if _only_serves.get():
        threading.Thread(target=_settle, daemon=True).start()
    parsing = Turns("parse", 1)  # a second thread would only wait for the first: Python parses in one at a time
    uploads, upload_decoders = Turns("upload", UPLOADS, of_one=UPLOADS // 2), Decoders()
    yield {
        "settings": settings,
        "database": database,
        "vault": vault,
        "doorbell": Doorbell(settings),
        "decoders": decoders,
        "metrics": Metrics(database),
        "callers": Callers(database, RateLimit(settings), _identity_provider(settings)),
        "engine": engine,
        "idle_parts": _idle_parts.get(),
        "parsing": parsing,
        "uploads": uploads,
        "upload_decoders": upload_decoders,
        "reports": Turns("report", REPORTS, of_one=REPORTS // 2),
        "event_streams": EventStreams(settings),
        "database_health": database_health,
        "admission": Admission(),
        "body_memory": BodyMemory(settings.all_bodies_bytes),
    }
    stop.set()
    cleaner.join()
    database_health.stop()
    parsing.close()
    uploads.close()
    upload_decoders.close()
    engine.close()
    decoders.close()
    database.engine.dispose()
    traces.flush()


@cache
def routes() -> FastAPI:
    """Every route, built once per process. It holds nothing of a run: `create_app` gives a run its settings."""
    app = FastAPIOffline(
        redoc_url=None,
        title="LIRF",
        version="0.1.0",
        summary="Learning with Recoverable Forgetting as a service",
        description=DESCRIPTION,
        lifespan=lifespan,
        strict_content_type=False,  # scripts send JSON without saying so, and no page can send our keys
        telemetry={"metrics": False, "logs": False, "operation_spans": False},  # of which we have our own
        responses={"default": {"model": ProblemDetails, "description": "Problem details, RFC 9457."}},
    )
    problems.install(app)
    app.add_middleware(problems.RefuseNul)
    app.add_middleware(Departures)
    app.add_middleware(EndRevoked)
    app.add_middleware(RequestLog)
    # Before the console's pages, of which one is for all other paths.
    app.mount("/console/static", StaticFiles(directory=CONSOLE / "static"))
    for router in ROUTERS:
        app.include_router(router)

    @app.get("/", include_in_schema=False)
    def root() -> RedirectResponse:
        return RedirectResponse("/console/models")

    return app


def create_app(
    settings: Settings | None = None, idle_parts: Callable[[], list[str]] = list, only_serves: bool = False
) -> ASGIApp:
    """The application for one run of a server with these settings. Several may run in a process at the same time.

    idle_parts: names the other parts of the installation that must work but do not. The service is not ready then.
    only_serves: the process does nothing else, and may be tuned for it.
    """
    settings = settings or Settings()
    logs.configure(settings)
    traces.configure(settings, "lirf-api")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":  # which runs in a task of its own, so that nothing else sees these settings
            _settings.set(settings)
            _idle_parts.set(idle_parts)
            _only_serves.set(only_serves)
        elif not scope["path"].startswith(HEALTH_PATH):
            admission: Admission = scope["state"]["admission"]
            senders = (value for name, value in scope["headers"] if name in (b"authorization", b"cookie"))
            await admission.turn(next(senders, b""))
        await routes()(scope, receive, send)

    # What others write into these headers must not choose the address that the rate limit counts.
    return ProxyHeadersMiddleware(app, settings.trusted_proxies) if settings.trusted_proxies else app  # type: ignore[arg-type,return-value]


def application(settings: Settings | None = None, idle_parts: Callable[[], list[str]] = list) -> ASGIApp:
    """`create_app` for a process that only serves."""
    app = create_app(settings, idle_parts, only_serves=True)
    routes()
    # Each call of the kernel lets other threads run. If one computes, the event loop would wait 5 ms each time.
    sys.setswitchinterval(SWITCH_SECONDS)
    return app


def _settle() -> None:
    """Import what the first request should not wait for, and let the garbage collector skip all that is loaded by now.

    A full collection took a third of a second, in which no request was answered.
    """
    importlib.import_module("lirf_core.architectures.resnet")
    routes().openapi()  # which is built once
    gc.collect()
    gc.freeze()


def _identity_provider(settings: Settings) -> IdentityProvider | None:
    if settings.oidc_issuer is None or settings.oidc_audience is None:
        return None
    return IdentityProvider(
        settings.oidc_issuer, settings.oidc_audience, settings.oidc_roles_claim, settings.oidc_roles
    )


def _keep_clean(engine: InferenceEngine, seconds: float, stop: threading.Event) -> None:
    """What another process shredded leaves this one's memory."""
    while not stop.wait(seconds):
        try:
            engine.drop_shredded()
        except sa.exc.SQLAlchemyError:
            log.exception("what was shredded may still be in memory; the next round tries again")
