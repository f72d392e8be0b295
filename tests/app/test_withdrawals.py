from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from app.base.database import now
from app.registry.tables import ModelRow
from app.withdrawals import service as withdrawals
from lirf_client import LirfError
from tests.app.conftest import Service, begins_with
from tests.app.factories import infer_request

LOWEST = -3.4028234663852886e38


def logits(service: Service, **parameters: object) -> list[list[float]]:
    answer = service.auditor.infer("birds", infer_request(3, **parameters))
    flat = next(output["data"] for output in answer["outputs"] if output["name"] == "logits")
    return [flat[row * 5 : row * 5 + 5] for row in range(3)]


def shown(service: Service) -> set[int]:
    """The indices of the classes that an answer can show."""
    return {column for column in range(5) if all(row[column] > LOWEST for row in logits(service))}


@begins_with("auk emu")
def test_withdrawal_shows_its_classes_until_it_is_revoked(service: Service) -> None:
    deposit_id = service.deposits[0]
    target = logits(service)
    assert shown(service) == {1, 3, 4}
    withdrawal = service.custodian.withdraw([deposit_id], holder="press", reason="licence renewed")
    assert (withdrawal["state"], withdrawal["classes"], withdrawal["model"]) == ("active", ["auk", "emu"], "birds")
    assert shown(service) == {0, 1, 2, 3, 4}
    assert [c["state"] for c in service.reader.classes("birds")][:3] == ["withdrawn", "preserved", "withdrawn"]
    assert service.custodian.revoke(withdrawal["id"])["state"] == "revoked"
    assert logits(service) == target
    assert [c["state"] for c in service.reader.classes("birds")][:3] == ["deposited", "preserved", "deposited"]


@pytest.mark.parametrize("joining", ["eq8", "levelled"])
@begins_with()
def test_preserved_logits_equal_the_targets_unless_they_are_averaged(service: Service, joining: str) -> None:
    deposit_id = service.deposit(["auk"], config={"joining": joining})
    target = logits(service)
    service.custodian.withdraw([deposit_id], holder="h", reason="r")
    for before, after in zip(target, logits(service), strict=True):
        assert after[1:] == pytest.approx(before[1:], abs=1e-4)


@begins_with("auk")
def test_expired_withdrawal_never_answers_again(service: Service) -> None:
    deposit_id = service.deposits[0]
    withdrawal = service.custodian.withdraw([deposit_id], holder="h", reason="r", expires_in_seconds=3600)
    assert 0 in shown(service)
    with service.database.session() as session, session.begin():
        session.execute(sa.update(withdrawals.WithdrawalRow).values(expires_at=now() - timedelta(seconds=1)))
        session.execute(sa.update(ModelRow).values(generation=ModelRow.generation + 1))
    assert 0 not in shown(service)
    assert service.reader.withdrawals("birds")[0]["state"] == "expired"
    with pytest.raises(LirfError, match="expired at") as caught:
        service.custodian.revoke(withdrawal["id"])
    assert caught.value.status == 410
    with service.database.session() as session:
        assert withdrawals.end_expired(session) == 1
        assert withdrawals.end_expired(session) == 0
    assert service.reader.withdrawals()[0]["ended_by"] == "reconciler"
    assert [e["action"] for e in service.auditor.audit_events(subject=withdrawal["id"])] == [
        "withdrawal.expired",
        "withdrawal.opened",
    ]


@begins_with("auk")
def test_overlapping_withdrawals_hold_until_the_last_ends(service: Service) -> None:
    deposit_id = service.deposits[0]
    first, second = (service.custodian.withdraw([deposit_id], holder=h, reason="r")["id"] for h in "ab")
    service.custodian.revoke(first)
    assert 0 in shown(service)
    service.custodian.revoke(second)
    assert 0 not in shown(service)


@begins_with("auk", "emu")
def test_request_can_name_one_withdrawal(service: Service) -> None:
    first, second = service.deposits
    one = service.custodian.withdraw([first], holder="h", reason="r")["id"]
    service.custodian.withdraw([second], holder="h", reason="r")
    row = logits(service, withdrawal=one)[0]
    assert [value > LOWEST for value in row] == [True, True, False, True, True]
    service.custodian.revoke(one)
    with pytest.raises(LirfError, match=r"was revoked at \S+ \S+ UTC\. Ask a custodian for a new one") as caught:
        logits(service, withdrawal=one)
    assert caught.value.status == 410
    with pytest.raises(LirfError, match="There is no withdrawal") as unknown:
        logits(service, withdrawal="nonsense")
    assert unknown.value.status == 404


@begins_with()
def test_impossible_withdrawals_are_refused(service: Service) -> None:
    service.register("others", seed=1)
    queued, mine, other = service.queue(["emu"]), None, service.deposit(["auk"], "others")
    service.work(queued)
    mine, waiting = queued, service.queue(["auk"])

    def refusal(deposits: list[str], **options: object) -> LirfError:
        with pytest.raises(LirfError) as caught:
            service.custodian.withdraw(deposits, holder="h", **{"reason": "r", **options})  # type: ignore[arg-type]
        return caught.value

    assert refusal(["nonsense"]).type == "urn:lirf:problem:unknown-deposit"
    assert refusal([waiting]).type == "urn:lirf:problem:not-deposited"
    assert refusal([mine, other]).type == "urn:lirf:problem:several-models"
    yesterday = (datetime.now(UTC) - timedelta(1)).isoformat()
    assert refusal([mine], expires_at=yesterday).type == "urn:lirf:problem:expiry-passed"
    assert refusal([mine], expires_at="2030-01-01T00:00:00").status == 422  # no zone
    assert refusal([mine], expires_in_seconds=-1).status == 422
    assert refusal([mine], reason="").status == 422
    assert service.reader.withdrawals() == []


@begins_with()
def test_withdrawal_with_a_missing_module_file_is_refused(service: Service) -> None:
    before = set((service.settings.folder / "vault").rglob("*"))
    deposit_id = service.deposit(["auk"])
    for path in set((service.settings.folder / "vault").rglob("*")) - before:
        if path.is_file():
            path.unlink()
    with pytest.raises(LirfError, match=r"cannot be opened\. Restore its file from a backup"):
        service.custodian.withdraw([deposit_id], holder="h", reason="r")
    assert service.reader.withdrawals() == []


@begins_with("auk")
def test_withdrawal_renewed_while_its_end_is_recorded_stays_active(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    deposit_id = service.deposits[0]
    service.custodian.withdraw([deposit_id], holder="h", reason="r", expires_in_seconds=3600)
    times = iter([now() + timedelta(hours=2)])  # the search finds it expired; by the update it has been renewed
    monkeypatch.setattr(withdrawals, "now", lambda: next(times, None) or now())
    with service.database.session() as session:
        assert withdrawals.end_expired(session) == 0
    assert [one["state"] for one in service.reader.withdrawals("birds")] == ["active"]


def test_unknown_withdrawal_cannot_be_revoked(service: Service) -> None:
    with pytest.raises(LirfError, match="There is no withdrawal 'nonsense'") as caught:
        service.custodian.revoke("nonsense")
    assert caught.value.status == 404
