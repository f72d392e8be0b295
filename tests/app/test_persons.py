"""A second person is another person: not another key of the first one."""

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import pytest

from app.access.service import Role
from app.second_person.service import Act
from lirf_client import Approval, AwaitingApproval, Client, LirfError
from tests.app.conftest import Service, begins_with, on_one_database, started
from tests.app.identity_provider import AUDIENCE, Provider

ALL = ["administrator"]


@pytest.fixture
def url(service: Service, provider: Provider) -> Iterator[str]:
    """A replica that accepts the provider's tokens, on a model that demands a second person."""
    service.administrator.change_policy("birds", reason="two", needs_second_person=True)
    options = {"oidc_issuer": provider.issuer, "oidc_audience": AUDIENCE}
    with started(service.settings.model_copy(update=options)) as (url, _):
        yield url


def requests_of(client: Client, deposit_id: str, sets: tuple[str, str] = ("", "")) -> dict[Act, Callable[[], Any]]:
    """How to ask for each act that needs two people. sets: images of another class, and of the deposit's."""
    return {
        Act.DEPOSIT: lambda: client.request_deposit("birds", sets[0], reason="r"),
        Act.REBASE: lambda: client.request_rebase("birds", dataset_id=sets[1], reason="r"),
        Act.WITHDRAW: lambda: client.withdraw([deposit_id], holder="h", reason="r"),
        Act.RESTORE: lambda: client.restore(deposit_id, reason="r"),
        Act.PURGE: lambda: client.purge(deposit_id, classes=["auk"], reason="r"),
        Act.POLICY: lambda: client.change_policy("birds", reason="r", needs_second_person=False),
        Act.BASE: lambda: client.make_base("birds", confirm="birds", reason="r"),
        Act.REMOVE: lambda: client.remove_model("birds", confirm="birds", reason="r"),
    }


def asked(request: Callable[[], Any]) -> Approval:
    with pytest.raises(AwaitingApproval) as awaiting:
        request()
    return awaiting.value.approval


def problem(act: Callable[[], Any]) -> str:
    with pytest.raises(LirfError) as refused:
        act()
    return refused.value.type.removeprefix("urn:lirf:problem:")


def keys_of_one_maker(url: str, maker: str, name: str) -> dict[str, Client]:
    """The maker and keys that it made: directly, through another key, and through a key that is revoked since."""
    first = Client(url, maker)
    child = first.create_key(f"{name} child", ALL)
    sibling = first.create_key(f"{name} sibling", ALL)
    grandchild = Client(url, child["key"]).create_key(f"{name} grandchild", ALL)
    lost = first.create_key(f"{name} lost", ALL)
    orphan = Client(url, lost["key"]).create_key(f"{name} orphan", ALL)
    first.revoke_key(lost["id"])
    made = {"child": child, "sibling": sibling, "grandchild": grandchild, "orphan": orphan}
    return {"maker": first} | {kind: Client(url, key["key"]) for kind, key in made.items()}


@pytest.mark.attack
@begins_with("auk")
def test_no_two_keys_of_one_person_carry_out_an_act_that_needs_two(
    service: Service, provider: Provider, url: str
) -> None:
    [deposit_id] = service.deposits
    images = [service.archive([name], name=f"{name}.zip") for name in ("dodo", "auk")]
    other, own = (service.operator.upload_dataset("birds", archive)["id"] for archive in images)
    of_a_key = keys_of_one_maker(url, service.key_of("thief", Role.ADMINISTRATOR), "a")
    of_an_identity = keys_of_one_maker(url, provider.token(), "b")
    of_an_identity["second login"] = Client(url, provider.token(jti="another login", auth_time=1))
    for person in (of_a_key, of_an_identity):
        waiting = {
            (requester, act): asked(request)
            for requester, client in person.items()
            for act, request in requests_of(client, deposit_id, (other, own)).items()
        }
        assert {act for _, act in waiting} == set(Act), "a new act needs its request in requests_of"
        for ((requester, act), approval), (approver, client) in product(waiting.items(), person.items()):
            kind = problem(lambda client=client, approval=approval: client.approve(approval["id"]))
            assert kind == "own-request", (requester, approver, act)
    assert service.reader.policy("birds")["needs_second_person"]
    assert service.reader.deposit(deposit_id)["state"] == "deposited"
    assert service.reader.withdrawals("birds") == []


@begins_with("auk")
def test_another_person_approves_whatever_key_asked(service: Service, provider: Provider, url: str) -> None:
    """Persons: a key that the server's operator made, each with the keys made from it, and an identity."""
    [deposit_id] = service.deposits
    alice, bob = (service.key_of(name, Role.ADMINISTRATOR) for name in ("alice", "bob"))
    carol = Client(url, alice).create_key("carol", ["custodian"])["key"]
    dora = Client(url, bob).create_key("dora", ["custodian"])["key"]
    eve = provider.token(sub="eve")
    for requester, approver in ((carol, bob), (alice, dora), (eve, carol), (dora, eve)):
        approval = asked(requests_of(Client(url, requester), deposit_id)[Act.WITHDRAW])
        assert Client(url, approver).approve(approval["id"])["state"] == "approved"


@on_one_database
@begins_with("auk")
def test_a_key_whose_maker_is_unknown_neither_asks_nor_approves_with_another(service: Service) -> None:
    """As after an update from a version that did not record who made a key."""
    import sqlalchemy as sa

    from app.access.tables import ApiKeyRow

    service.administrator.change_policy("birds", reason="two", needs_second_person=True)
    old = Client(service.url, service.key_of("old", Role.ADMINISTRATOR))
    other = Client(service.url, service.key_of("other", Role.ADMINISTRATOR))
    with service.database.session() as session, session.begin():
        session.execute(sa.update(ApiKeyRow).where(ApiKeyRow.name == "old").values(person_id="unknown"))
    for requester, approver in ((old, other), (other, old)):
        approval = asked(requests_of(requester, service.deposits[0])[Act.RESTORE])
        assert problem(lambda approver=approver, approval=approval: approver.approve(approval["id"])) == "own-request"


@on_one_database
@begins_with("auk")
def test_approvals_and_events_name_keys_by_their_ids(service: Service) -> None:
    service.administrator.change_policy("birds", reason="two", needs_second_person=True)
    approval = asked(requests_of(service.custodian, service.deposits[0])[Act.RESTORE])
    service.administrator.approve(approval["id"])
    keys = service.administrator.keys()
    ids = {key["name"]: key["id"] for key in keys}
    [decided] = service.reader.approvals()
    assert (decided["requested_key_id"], decided["decided_key_id"]) == (ids["custodian"], ids["administrator"])
    [event] = service.auditor.audit_events(action="deposit.restored")
    assert (event["actor_id"], event["details"]["requested_by"]) == (ids["administrator"], "custodian")
    named = {event["actor"]: event["actor_id"] for event in service.auditor.audit_events()}
    assert named == {
        "administrator": ids["administrator"],
        "custodian": ids["custodian"],
        "operator": ids["operator"],
        "worker": "worker",
        "local administrator": "local",
    }
    assert {event["actor_id"] for event in service.auditor.audit_events(actor_id=ids["custodian"])} == {
        ids["custodian"]
    }
    assert service.auditor.verify_audit()["is_intact"]
