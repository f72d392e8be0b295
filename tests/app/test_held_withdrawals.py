"""Held withdrawals: requests with the token see the classes, and no others do at the same time."""

import threading
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from app.access.service import Role
from app.base.database import now
from app.withdrawals import service as withdrawals
from lirf_client import Client, LirfError
from tests.app.conftest import HTTP, Service, begins_with, started
from tests.app.factories import CLASSES, infer_request, png


def seen(client: Client, *tokens: str, **parameters: Any) -> set[str]:
    """The classes that an answer can show."""
    answer = client.infer("birds", infer_request(1, **parameters), tokens=tokens)
    probabilities = next(output["data"] for output in answer["outputs"] if output["name"] == "probabilities")
    return {name for name, probability in zip(CLASSES, probabilities, strict=True) if probability > 0}


def slug(refused: pytest.ExceptionInfo[LirfError]) -> str:
    return refused.value.type.removeprefix("urn:lirf:problem:")


def held(service: Service, name: str, **options: Any) -> tuple[str, str]:
    """A held withdrawal of a new deposit, and its token."""
    withdrawal = service.custodian.withdraw(
        [service.deposit([name])], holder=name, reason="licensed", visibility="held", **options
    )
    return withdrawal["id"], service.custodian.withdrawal_token(withdrawal["id"])


@begins_with()
def test_held_withdrawal_shows_its_classes_only_with_its_token(service: Service) -> None:
    (auk, auk_token), (emu, emu_token) = held(service, "auk"), held(service, "emu")
    others = set(CLASSES) - {"auk", "emu"}
    assert seen(service.reader) == others
    assert seen(service.reader, auk_token) == others | {"auk"}
    assert seen(service.reader, emu_token) == others | {"emu"}
    assert seen(service.reader, auk_token, emu_token) == set(CLASSES)
    answer = service.reader.infer("birds", infer_request(1), tokens=[emu_token, auk_token])
    assert answer["parameters"]["withdrawals"] == sorted([auk, emu])
    assert service.reader.classes("birds")[0]["withdrawals"] == [auk]

    service.custodian.revoke(auk)
    assert seen(service.reader, emu_token) == others | {"emu"}
    with pytest.raises(LirfError, match="was revoked at") as refused:
        seen(service.reader, auk_token)
    assert (slug(refused), refused.value.status) == ("withdrawal-ended", 410)


@begins_with()
def test_public_and_held_withdrawals_are_shown_together(service: Service) -> None:
    _, token = held(service, "auk")
    service.custodian.withdraw([service.deposit(["emu"])], holder="all", reason="r")
    assert seen(service.reader) == set(CLASSES) - {"auk"}
    assert seen(service.reader, token) == set(CLASSES)


@begins_with()
def test_token_also_counts_for_images_and_views(service: Service, tmp_path: Any) -> None:
    withdrawal, token = held(service, "auk")
    image = tmp_path / "bird.png"
    image.write_bytes(png(3, size=40))
    answer = service.reader.predict("birds", image, top=10, tokens=[token])
    assert (len(answer["predictions"]), answer["withdrawals"]) == (5, [withdrawal])
    assert len(service.reader.predict("birds", image, top=10)["predictions"]) == 4
    headers = {"Authorization": f"Bearer {service.key_of('app')}"}
    views = HTTP.get(f"{service.url}/v1/models/birds/views", headers={**headers, "Withdrawal-Token": token})
    assert views.json()["views"][0]["classes"] == CLASSES


@begins_with()
def test_every_wrong_token_is_refused_in_the_same_words(service: Service) -> None:
    service.register("fish", seed=1)
    withdrawal, token = held(service, "auk")
    no_token = service.custodian.withdraw([service.deposit(["emu"])], holder="h", reason="r", visibility="held")["id"]
    wrong = [
        "x",
        "lirfw_",
        f"lirfw_{withdrawal}_",
        f"lirfw_{withdrawal}_x",
        f"{token}x",
        f"lirfw_{no_token}_",
        "lirfw_0193a1c2-7f00-7000-8000-000000000000_x",
        token.removeprefix("lirfw_"),
    ]
    refusals = set()
    for attempt in wrong:
        with pytest.raises(LirfError) as refused:
            seen(service.reader, attempt)
        refusals.add((refused.value.status, slug(refused), refused.value.detail))
    [(status, kind, _)] = refusals
    assert (status, kind) == (403, "withdrawal-token-refused")
    with pytest.raises(LirfError, match="is not valid for model 'fish'"):
        service.reader.infer("fish", infer_request(1), tokens=[token])


@begins_with()
def test_id_of_a_held_withdrawal_is_not_a_token(service: Service) -> None:
    withdrawal, token = held(service, "auk")
    with pytest.raises(LirfError, match="Send its token") as refused:
        seen(service.administrator, withdrawal=withdrawal)
    assert refused.value.status == 403
    assert seen(service.reader, token, withdrawal=withdrawal) == set(CLASSES)


@begins_with()
def test_new_token_replaces_the_old_one(service: Service) -> None:
    withdrawal, first = held(service, "auk")
    second = service.custodian.withdrawal_token(withdrawal)
    assert "auk" in seen(service.reader, second)
    with pytest.raises(LirfError, match="is not valid for model"):
        seen(service.reader, first)
    issued = service.auditor.audit_events(action="withdrawal.token_issued")
    assert [event["details"] for event in issued] == [{"is_first": False}, {"is_first": True}]
    with service.database.reading() as session:
        digest = session.get_one(withdrawals.WithdrawalRow, withdrawal).token_digest
    assert digest
    assert second.split("_", 2)[2] not in digest


@begins_with("auk")
def test_public_and_ended_withdrawals_get_no_token(service: Service) -> None:
    public = service.custodian.withdraw([service.deposits[0]], holder="h", reason="r")["id"]
    with pytest.raises(LirfError, match="sees its classes without a token"):
        service.custodian.withdrawal_token(public)
    withdrawal, _ = held(service, "emu")
    service.custodian.revoke(withdrawal)
    with pytest.raises(LirfError, match="was revoked at"):
        service.custodian.withdrawal_token(withdrawal)


@begins_with("auk")
def test_active_withdrawal_can_be_renewed(service: Service) -> None:
    deposit_id = service.deposits[0]
    first = service.custodian.withdraw([deposit_id], holder="h", reason="r", expires_in_seconds=60)
    longer = service.custodian.renew(first["id"], reason="a day more", expires_in_seconds=86400)
    assert longer["expires_at"] > (first["expires_at"] or "")
    assert service.custodian.renew(first["id"], reason="for good")["expires_at"] is None
    event = next(service.auditor.audit_events(action="withdrawal.renewed"))
    assert (event["reason"], event["details"]) == (
        "for good",
        {"from": longer["expires_at"], "until": None},
    )
    with pytest.raises(LirfError, match=r"The expiry time .* UTC has passed"):
        service.custodian.renew(first["id"], reason="r", expires_at="2020-01-01T00:00:00Z")
    service.custodian.renew(first["id"], reason="an hour", expires_in_seconds=3600)
    with service.database.session() as session, session.begin():
        session.execute(sa.update(withdrawals.WithdrawalRow).values(expires_at=now() - timedelta(seconds=1)))
    with pytest.raises(LirfError, match="expired at"):
        service.custodian.renew(first["id"], reason="too late", expires_in_seconds=3600)
    assert "auk" not in seen(service.reader)


@begins_with("auk")
def test_one_person_cannot_extend_what_a_second_person_approved(service: Service) -> None:
    withdrawal = service.custodian.withdraw([service.deposits[0]], holder="h", reason="r", expires_in_seconds=3600)
    service.administrator.change_policy("birds", reason="two", needs_second_person=True)
    for options in ({"expires_in_seconds": 7200}, {}):
        with pytest.raises(LirfError, match="needs a second person") as refused:
            service.custodian.renew(withdrawal["id"], reason="longer", **options)  # type: ignore[arg-type]
        assert refused.value.status == 409
    assert service.custodian.renew(withdrawal["id"], reason="shorter", expires_in_seconds=60)["expires_at"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@begins_with()
def test_simultaneous_customers_see_only_their_own_classes_on_two_replicas(service: Service) -> None:
    """One customer may see auks, one emus, one neither. The licence for auks ends while all of them send requests."""
    (auk, auk_token), (_, emu_token) = held(service, "auk"), held(service, "emu")
    others = set(CLASSES) - {"auk", "emu"}
    may: dict[tuple[str, ...], set[str]] = {(auk_token,): {"auk"}, (emu_token,): {"emu"}, (): set()}
    stop, revoked, wrong = threading.Event(), threading.Event(), list[str]()
    asked: dict[tuple[str, ...], int] = dict.fromkeys(may, 0)

    def ask(url: str, key: str, tokens: tuple[str, ...]) -> None:
        with Client(url, key) as client:
            while not stop.is_set():
                was_revoked = revoked.is_set()
                try:
                    found = seen(client, *tokens)
                except LirfError as refused:
                    if refused.status != 410 or tokens != (auk_token,):
                        wrong.append(str(refused))
                    continue
                asked[tokens] += 1
                if found != others | may[tokens] or (was_revoked and tokens == (auk_token,)):
                    wrong.append(f"{tokens} saw {found}")

    with started(service.settings) as (second, _):
        threads = [
            threading.Thread(target=ask, args=(url, service.key_of("app", Role.AUDITOR), tokens))
            for url in (service.url, second)
            for tokens in may
        ]
        for thread in threads:
            thread.start()
        while min(asked.values()) < 20:
            assert not wrong, wrong
        service.custodian.revoke(auk)
        revoked.set()
        before = dict(asked)
        while min(asked[tokens] - before[tokens] for tokens in may if tokens != (auk_token,)) < 20:
            assert not wrong, wrong
        stop.set()
        for thread in threads:
            thread.join()
    assert wrong == []
