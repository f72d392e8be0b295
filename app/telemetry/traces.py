"""OpenTelemetry traces, where `LIRF_OTLP_URL` names a collector: a span for each request, which FastAPI makes, and one
for each attempt at a deposit, with its phases. Elsewhere they cost next to nothing.
"""

from opentelemetry import trace

from app.base.settings import Settings

FLUSH_MILLISECONDS = 5000


def configure(settings: Settings, service: str) -> None:
    """The spans of this process go to the collector, once `settings` name one."""
    if settings.otlp_url is None:
        return
    # Imported where they are wanted alone: a worker's parent process stays small.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_url.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Before a process ends that does not say so; waits a little for a collector that is away."""
    if force_flush := getattr(trace.get_tracer_provider(), "force_flush", None):  # the one that keeps nothing has none
        force_flush(FLUSH_MILLISECONDS)
