from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from app.api.dependencies import AnyKey
from app.telemetry.metrics import Metrics

router = APIRouter(tags=["health"])


@router.get("/metrics", response_class=PlainTextResponse)
def get_metrics(actor: AnyKey, request: Request) -> Response:
    """Metrics of this server and of all jobs, for Prometheus. Put an API key into its `authorization` setting.

    A key that is bound to models gets only the numbers of their jobs and withdrawals.
    """
    metrics: Metrics = request.state.metrics
    return Response(metrics.text(only_jobs=actor.domain.is_bound), media_type=CONTENT_TYPE_LATEST)
