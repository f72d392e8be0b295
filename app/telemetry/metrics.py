"""Metrics for Prometheus: counts of this process, and the states of the jobs from the database."""

import os
from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from app.audit import anchoring
from app.base.database import Database, now
from app.deposits.jobs import JOBS as DEPOSITS
from app.evidence.jobs import JOBS as EXAMINATIONS
from app.hardenings.jobs import JOBS as HARDENINGS
from app.measurements.jobs import JOBS as MEASUREMENTS
from app.rebases.jobs import JOBS as REBASES
from app.vault import erasure
from app.withdrawals import service as withdrawals

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


SHARED_METRICS = "PROMETHEUS_MULTIPROC_DIR"  # the folder that the processes of one `lirf serve` share


class Metrics:
    """Metrics of one application, or of all processes that count in one folder."""

    def __init__(self, database: Database) -> None:
        self.registry = CollectorRegistry()
        labels = "method", "route", "status"
        self.requests = Counter("lirf_requests", "Answered requests.", labels, registry=self.registry)
        self.seconds = Histogram(
            "lirf_request_seconds",
            "Time from a request to the end of its answer.",
            ("method", "route"),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._exported = self.registry
        if SHARED_METRICS in os.environ:
            self._exported = CollectorRegistry()
            MultiProcessCollector(self._exported)  # type: ignore[no-untyped-call]
        else:
            ProcessCollector(registry=self._exported)
        self._jobs = CollectorRegistry()
        for registry in (self._jobs, self._exported):
            registry.register(_Jobs(database))

    def text(self, *, only_jobs: bool) -> bytes:
        """The metrics in the text format of Prometheus. only_jobs: leave out what this process counts for all keys."""
        return generate_latest(self._jobs if only_jobs else self._exported)


class _Jobs(Collector):
    """Reads the database at each scrape. The age of the oldest queued deposit shows whether any worker is working."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def describe(self) -> Iterable[Metric]:
        return []  # do not read the database before the first scrape

    def collect(self) -> Iterable[Metric]:
        with self._database.reading() as session:
            states, oldest = DEPOSITS.counts(session), DEPOSITS.oldest_queued(session)
            examined, measured = EXAMINATIONS.counts(session), MEASUREMENTS.counts(session)
            hardened, rebased = HARDENINGS.counts(session), REBASES.counts(session)
            active = withdrawals.count_active(session)
            alarm = anchoring.alarm(session)
            erasures = erasure.count_due(session)
        yield _by_state("lirf_deposits", "Deposits by state.", states)
        yield _by_state("lirf_rebases", "Rebases of models by state.", rebased)
        yield _by_state("lirf_hardenings", "Hardenings of targets by state.", hardened)
        yield _by_state("lirf_examinations", "Examinations of deposits by state.", examined)
        yield _by_state("lirf_measurements", "Measurements of models by state.", measured)
        age = (now() - oldest).total_seconds() if oldest else 0.0
        yield GaugeMetricFamily(
            "lirf_oldest_queued_deposit_seconds", "Age of the oldest queued deposit; 0 if none waits.", value=age
        )
        yield GaugeMetricFamily("lirf_active_withdrawals", "Active withdrawals.", value=active)
        yield GaugeMetricFamily(
            "lirf_due_erasures", "Shredded objects whose key may still be in the database's files.", value=erasures
        )
        yield GaugeMetricFamily(
            "lirf_audit_alarm",
            "1 if the audit does not continue its anchor file; otherwise 0.",
            value=alarm is not None,
        )


def _by_state(name: str, help: str, counts: dict[str, int]) -> Metric:
    gauge = GaugeMetricFamily(name, help, labels=["state"])
    for state, count in counts.items():
        gauge.add_metric([state], count)
    return gauge
