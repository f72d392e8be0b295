"""Repairs what crashes and lost messages leave behind: `python -P -m worker.reconciler`, which `lirf up` also starts.

Several may run at once: every change is guarded.
"""

import logging
import signal
import threading
import time

from app.access import console_sessions
from app.access import service as access
from app.approvals import lapses
from app.audit import anchoring
from app.base.database import Database
from app.base.settings import Settings
from app.deposits.jobs import JOBS as DEPOSITS
from app.evidence import service as evidence
from app.evidence.jobs import JOBS as EXAMINATIONS
from app.hardenings.jobs import JOBS as HARDENINGS
from app.idempotency import service as idempotency
from app.jobs.doorbell import Doorbell
from app.measurements.jobs import JOBS as MEASUREMENTS
from app.rebases.jobs import JOBS as REBASES
from app.telemetry import logs
from app.vault import erasure
from app.vault.service import Vault, open_sealed_vault
from app.withdrawals import service as withdrawals
from worker import life_sign
from worker.orphan import is_orphaned

log = logging.getLogger(__name__)


def run(settings: Settings, stop: threading.Event) -> None:
    """Reconciles every `reconcile_seconds` until `stop` is set."""
    database, vault, doorbell = Database(settings.database), open_sealed_vault(settings), Doorbell(settings)
    while not stop.is_set():
        has_failed = False
        parts = _deposits, _expired, _anchor, _rebases, _hardenings, _evidence, _measurements, _erasures
        for part in parts:  # one that fails does not stop the next
            try:
                part(settings, database, vault, doorbell)
            except Exception:
                has_failed = True
                log.exception("part of this round failed; the next round tries again")
        if not has_failed:
            life_sign.send()
        stop.wait(settings.reconcile_seconds)
    database.engine.dispose()


def _deposits(settings: Settings, database: Database, vault: Vault, doorbell: Doorbell) -> None:
    with database.session() as session:
        for deposit_id in DEPOSITS.recover(session, vault, settings):
            doorbell.ring(DEPOSITS.task, deposit_id)


def _rebases(settings: Settings, database: Database, vault: Vault, doorbell: Doorbell) -> None:
    with database.session() as session:
        for rebase_id in REBASES.recover(session, vault, settings):
            doorbell.ring(REBASES.task, rebase_id)


def _hardenings(settings: Settings, database: Database, vault: Vault, doorbell: Doorbell) -> None:
    with database.session() as session:
        for hardening_id in HARDENINGS.recover(session, vault, settings):
            doorbell.ring(HARDENINGS.task, hardening_id)


def _expired(settings: Settings, database: Database, vault: Vault, doorbell: Doorbell) -> None:
    with database.session() as session:
        withdrawals.end_expired(session)
        access.end_expired(session)
        lapses.end_lapsed(session, vault)
        console_sessions.forget_ended(session)
        idempotency.forget_expired(session)


def _anchor(settings: Settings, database: Database, vault: Vault, doorbell: Doorbell) -> None:
    if settings.audit_anchor_file:
        anchoring.anchor(database, settings.audit_anchor_file)


def _evidence(settings: Settings, database: Database, vault: Vault, doorbell: Doorbell) -> None:
    with database.session() as session:
        evidence.request_wanted(session)
        for evidence_id in EXAMINATIONS.recover(session, vault, settings):
            doorbell.ring(EXAMINATIONS.task, evidence_id)


def _erasures(settings: Settings, database: Database, vault: Vault, doorbell: Doorbell) -> None:
    erasure.finish(database, vault)


def _measurements(settings: Settings, database: Database, vault: Vault, doorbell: Doorbell) -> None:
    with database.session() as session:
        for measurement_id in MEASUREMENTS.recover(session, vault, settings):
            doorbell.ring(MEASUREMENTS.task, measurement_id)


def main() -> None:
    settings, stop = Settings(), threading.Event()
    logs.configure(settings)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_stop_when_orphaned, args=(stop,), daemon=True).start()
    run(settings, stop)


def _stop_when_orphaned(stop: threading.Event) -> None:
    while not is_orphaned():
        time.sleep(1)
    stop.set()


if __name__ == "__main__":
    main()
