"""OpenTelemetry traces, sent if `LIRF_OTLP_URL` names a collector; otherwise they cost next to nothing.

FastAPI makes a span for each request; the worker makes one for each attempt at a deposit, with its phases.
"""

from opentelemetry import trace

from app.base.settings import Settings

FLUSH_MILLISECONDS = 5000


def configure(settings: Settings, service: str) -> None:
    """Send the spans of this process to the collector, if `settings` name one."""
    if settings.otlp_url is None:
        return
    # Imported only if needed, so that a worker's parent process stays small.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": service}))
    exporter = OTLPSpanExporter(endpoint=f"{settings.otlp_url.rstrip('/')}/v1/traces")
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def flush() -> None:
    """Send what is left before a process ends abruptly. Waits a little if the collector does not answer."""
    if force_flush := getattr(trace.get_tracer_provider(), "force_flush", None):  # the default has none
        force_flush(FLUSH_MILLISECONDS)
