"""One form of a time everywhere: RFC 3339 in UTC, with Z."""

import csv
import json
from typing import Any

import httpx
import pytest

from tests.app.conftest import Service, begins_with, on_one_database
from tests.app.test_commands import Run, remote, run

__all__ = ["remote", "run"]  # fixtures

GIVEN, STORED = "2099-10-31T23:59:00.5+02:00", "2099-10-31T21:59:00.500000Z"


@begins_with("auk")
def test_an_expiry_has_one_form_in_answers_events_exports_and_commands(service: Service, remote: Run) -> None:
    custodian, [deposit] = service.custodian, service.deposits
    opened = custodian.withdraw([deposit], holder="press", reason="r", expires_at=GIVEN)
    [listed] = custodian.withdrawals("birds")
    [shown] = json.loads(remote("withdrawals", "--json").stdout)
    assert [one["expires_at"] for one in (opened, listed, shown)] == [STORED] * 3
    renewed = custodian.renew(opened["id"], reason="r", expires_at=GIVEN)
    assert renewed["expires_at"] == STORED
    events: dict[str, Any] = {one["action"]: one["details"] for one in service.auditor.audit_events(model="birds")}
    assert events["withdrawal.opened"]["expires_at"] == STORED
    assert events["withdrawal.renewed"] == events["withdrawal.renewed"] | {"from": STORED, "until": STORED}
    exported = [json.loads(line) for line in service.auditor.audit_export("jsonl", model="birds")]
    table = list(csv.DictReader(service.auditor.audit_export("csv", model="birds")))
    for line, row in zip(exported, table, strict=True):
        assert line["at"] == row["at"]
        assert line["at"].endswith("Z")
        assert "+00:00" not in json.dumps([line, row])


@on_one_database
def test_the_expiry_of_a_key_has_the_same_form_in_its_event(service: Service) -> None:
    service.administrator.create_key("soon", [], expires_in_seconds=3600)
    created = next(one for one in service.auditor.audit_events() if one["action"] == "key.created")
    keys = service.administrator.keys()
    [key] = [one for one in keys if one["name"] == "soon"]
    assert created["details"]["expires_at"] == key["expires_at"]


@on_one_database
@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59"])
def test_a_time_that_utc_cannot_hold_is_refused(service: Service, time: str) -> None:
    with httpx.Client(headers=service.auditor._http.headers) as client:
        answer = client.get(f"{service.url}/v1/audit/events", params={"since": time})
    assert answer.status_code == 422
