"""How strong attackers are, what they attack, and the attacks of earlier versions."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from app.evidence.jobs import JOBS
from app.evidence.tables import EvidenceRow
from lirf_core import config as configurations
from lirf_core.evidence.attacks.config import PLANS
from tests.app.conftest import Service, begins_with, on_one_database
from tests.app.test_hardenings import harden, has_hardening
from tests.lirf_core.attackers import TINY, short_attacks
from worker.examination import examine


@pytest.fixture(autouse=True)
def brief() -> Iterator[None]:
    """What is learnt is no matter here."""
    with short_attacks():
        yield


def examined(service: Service, evidence_id: str) -> dict[str, Any]:
    examine(service.worker, evidence_id)
    found = service.reader.evidence(evidence_id)
    assert found["state"] == "finished", found["failure"]
    assert found["found"] is not None
    return found["found"]


def newest(service: Service) -> str:
    return service.reader.evidence_of(service.deposits[0])[0]["id"]


@on_one_database
@begins_with("auk", has_evaluation_set=True)
def test_strong_attackers_come_on_request(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    deposit_id = service.deposits[0]
    examined(service, newest(service))
    monkeypatch.setitem(PLANS, "full", replace(TINY, tries_preserved_alone=True))
    asked = service.auditor.request_evidence(deposit_id, attackers="full")
    assert asked["attackers"] == "full"
    assert examined(service, asked["id"])["attacks"]["strength"] == "full"
    [requested] = service.auditor.audit_events(subject=asked["id"], action="evidence.requested")
    assert requested["details"]["attackers"] == "full"


@on_one_database
@begins_with("auk", has_evaluation_set=True, is_examined=True)
def test_evidence_of_an_earlier_version_still_opens(service: Service) -> None:
    evidence_id = newest(service)
    found = dict(service.reader.evidence(evidence_id)["found"] or {})
    del found["attacks"]
    share = {"percent": 75.0, "low": 60.0, "high": 90.0, "images": 40}
    point = {"step": 20, "preserved": 90.0, "deposited": 80.0}
    earlier = {"images_each": 10, "asked": 40, "curve": [point]}
    found["probe"] = {"target": {"preserved": share, "deposited": share}}
    found["relearning"] = {"target": [earlier], "fresh": [earlier]}
    found["good"] |= {"probe": "-", "relearning": "-"}
    with service.database.session() as session, session.begin():
        session.execute(sa.update(EvidenceRow).where(EvidenceRow.id == evidence_id).values(found=found))
    read = service.reader.evidence(evidence_id)["found"] or {}
    assert read["attacks"] is None
    assert (read["probe"], read["relearning"]) == (found["probe"], found["relearning"])


@on_one_database
@begins_with(has_evaluation_set=True)
def test_an_examination_waits_for_the_hardening_and_attacks_what_is_served(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(configurations, "MIN_HARDENING_STEPS", 2)
    monkeypatch.setattr(configurations, "MAX_HARDENING_STEPS", 2)
    has_hardening(service)
    evidence_id = service.reader.evidence_of(service.deposit(["auk"]))[0]["id"]
    with service.database.session() as session:
        assert JOBS.oldest_ready(session) is None
    assert harden(service)["is_served"]
    with service.database.session() as session:
        assert JOBS.oldest_ready(session) == evidence_id
    attacks = examined(service, evidence_id)["attacks"]
    assert attacks["is_hardened"]
    assert attacks["networks"].keys() == {"original", "target", "fresh"}
    [event] = service.auditor.audit_events(subject=evidence_id, action="evidence.finished")
    assert event["details"]["examined"].keys() >= {"served", "target"}
