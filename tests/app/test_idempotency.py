"""A repeated request with an idempotency key gets its first answer again and changes nothing."""

import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from app.access.service import Role
from app.api import idempotent_route
from app.base.database import now
from app.idempotency import service as idempotency
from lirf_client import LirfError
from tests.app.conftest import HTTP, Service, begins_with

Post = Callable[..., httpx.Response]


@pytest.fixture
def post(service: Service) -> Post:
    secret = service.key_of("platform", Role.ADMINISTRATOR)

    def send(path: str, key: str | None, /, secret: str = secret, **options: Any) -> httpx.Response:
        headers = {"Authorization": f"Bearer {secret}", **({} if key is None else {"Idempotency-Key": key})}
        return HTTP.post(service.url + path, headers=headers, timeout=60, **options)

    return send


def new_key() -> str:
    return str(uuid.uuid4())


def deposit_body(service: Service, classes: list[str]) -> dict[str, Any]:
    dataset = service.operator.upload_dataset("birds", service.archive(classes))
    return {"dataset_id": dataset["id"], "reason": "licence ended"}


def assert_replayed(first: httpx.Response, second: httpx.Response) -> None:
    assert second.status_code == first.status_code
    assert second.content == first.content
    assert second.headers.get("location") == first.headers.get("location")
    assert second.headers["content-type"] == first.headers["content-type"]
    assert "idempotent-replayed" not in first.headers
    assert second.headers["idempotent-replayed"] == "true"


@begins_with()
def test_the_same_key_and_body_create_one_deposit(service: Service, post: Post) -> None:
    body, key = deposit_body(service, ["auk"]), new_key()
    first, second = (post("/v1/models/birds/deposits", key, json=body) for _ in range(2))
    assert first.status_code == 202
    assert_replayed(first, second)
    assert [deposit["id"] for deposit in service.reader.deposits("birds")] == [first.json()["id"]]
    requested = [event for event in service.auditor.audit_events() if event["action"] == "deposit.requested"]
    assert len(requested) == 1


@begins_with("auk")
def test_every_kind_of_change_is_made_once(service: Service, post: Post) -> None:
    deposit_id = service.deposits[0]
    archive = service.archive(["emu"]).read_bytes()
    requests: list[tuple[str, dict[str, Any]]] = [
        ("/v1/keys", {"json": {"name": "shop", "roles": []}}),
        ("/v1/models/birds/datasets?purpose=deposit", {"content": archive}),
        ("/v1/withdrawals", {"json": {"deposits": [deposit_id], "holder": "shop", "reason": "licence renewed"}}),
    ]
    events = len(list(service.auditor.audit_events()))
    for path, options in requests:
        key = new_key()
        assert_replayed(*(post(path, key, **options) for _ in range(2)))
    assert len(list(service.auditor.audit_events())) == events + len(requests)


@begins_with()
def test_a_key_with_another_body_path_or_query_is_refused(service: Service, post: Post) -> None:
    key, other = new_key(), {"name": "other", "roles": []}
    assert post("/v1/keys", key, json={"name": "shop", "roles": []}).status_code == 201
    for path, options in (
        ("/v1/keys", {"json": other}),
        ("/v1/keys?again", {"json": {"name": "shop", "roles": []}}),
        ("/v1/models/birds/datasets?purpose=deposit", {"content": service.archive(["emu"]).read_bytes()}),
    ):
        refused = post(path, key, **options)
        assert refused.status_code == 422
        assert refused.json()["type"].endswith(":idempotency-key-reused")
    every_key = service.administrator.keys
    names = [api_key["name"] for api_key in every_key()]
    assert names.count("shop") == 1
    assert "other" not in names


def test_keys_of_different_callers_are_independent(service: Service, post: Post) -> None:
    key = new_key()
    secrets = [service.key_of(name, Role.ADMINISTRATOR) for name in ("one", "two")]
    names = iter(("shop", "other shop"))
    answers = [post("/v1/keys", key, secret, json={"name": next(names), "roles": []}) for secret in secrets]
    assert [answer.status_code for answer in answers] == [201, 201]
    assert answers[0].json()["key"] != answers[1].json()["key"]


def test_a_repeated_request_still_needs_the_role(service: Service, post: Post) -> None:
    key = new_key()
    assert post("/v1/keys", key, json={"name": "shop", "roles": []}).status_code == 201
    assert post("/v1/keys", key, service.key_of("nobody"), json={"name": "shop", "roles": []}).status_code == 403
    assert post("/v1/keys", key, "lirf_wrong_key", json={"name": "shop", "roles": []}).status_code == 401


@begins_with()
def test_a_request_sent_many_times_at_once_is_carried_out_once(service: Service, post: Post) -> None:
    body, key = deposit_body(service, ["auk"]), new_key()
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: post("/v1/models/birds/deposits", key, json=body), range(16)))
    accepted = [answer for answer in answers if answer.status_code == 202]
    assert {answer.json()["id"] for answer in accepted} == {service.reader.deposits("birds")[0]["id"]}
    assert len(service.reader.deposits("birds")) == 1
    others = {answer.json()["type"] for answer in answers if answer.status_code != 202}
    assert others <= {"urn:lirf:problem:idempotent-answer-missing"}
    assert post("/v1/models/birds/deposits", key, json=body).json()["id"] == accepted[0].json()["id"]


@begins_with()
def test_a_refused_request_may_be_sent_again_with_its_key(service: Service, post: Post) -> None:
    key, body = new_key(), {"dataset_id": "not yet there", "reason": "licence ended"}
    assert post("/v1/models/birds/deposits", key, json=body).status_code == 404
    body["dataset_id"] = service.operator.upload_dataset("birds", service.archive(["auk"]))["id"]
    assert post("/v1/models/birds/deposits", key, json=body).status_code == 202


@begins_with()
def test_a_lost_answer_names_the_changed_thing(service: Service, post: Post, monkeypatch: pytest.MonkeyPatch) -> None:
    body, key = deposit_body(service, ["auk"]), new_key()
    with monkeypatch.context() as patched:
        patched.setattr(idempotent_route, "_keep", lambda *_: None)  # as if the process had died first
        first = post("/v1/models/birds/deposits", key, json=body).json()
    again = post("/v1/models/birds/deposits", key, json=body)
    assert again.status_code == 409
    assert again.json()["subject"] == first["id"]
    assert len(service.reader.deposits("birds")) == 1


def test_an_answer_that_cannot_be_stored_is_still_sent(
    service: Service, post: Post, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OperationalError("UPDATE", {}, Exception("the database is locked"))

    key = new_key()
    with monkeypatch.context() as patched:
        patched.setattr(idempotency, "store_answer", fails)
        answer = post("/v1/keys", key, json={"name": "shop", "roles": []})
    assert answer.status_code == 201
    assert post("/v1/keys", key, json={"name": "shop", "roles": []}).status_code == 409


def test_a_damaged_stored_answer_is_reported_as_missing(service: Service, post: Post) -> None:
    key, body = new_key(), {"name": "shop", "roles": []}
    post("/v1/keys", key, json=body)
    with service.database.session() as session, session.begin():
        session.execute(sa.text("UPDATE idempotency_keys SET answer = :cut"), {"cut": b"cut"})
    assert post("/v1/keys", key, json=body).json()["type"].endswith(":idempotent-answer-missing")


def test_stored_answers_are_sealed(service: Service, post: Post) -> None:
    secret = post("/v1/keys", new_key(), json={"name": "shop", "roles": []}).json()["key"]
    with service.database.reading() as session:
        answer = session.scalar(sa.text("SELECT answer FROM idempotency_keys"))
    assert answer
    assert secret.encode() not in bytes(answer)
    assert secret.split("_", 2)[2].encode() not in bytes(answer)


def test_a_key_can_be_used_again_after_a_day(service: Service, post: Post) -> None:
    key, body = new_key(), {"name": "shop", "roles": []}
    first = post("/v1/keys", key, json=body).json()
    with service.database.session() as session, session.begin():
        old = now() - idempotency.RETENTION - timedelta(seconds=1)
        session.execute(sa.text("UPDATE idempotency_keys SET created_at = :old"), {"old": old})
    service.administrator.revoke_key(first["id"])  # which frees its name
    second = post("/v1/keys", key, json=body)
    assert second.status_code == 201
    assert second.json()["id"] != first["id"]
    with service.database.session() as session:
        idempotency.forget_expired(session)
    assert_replayed(second, post("/v1/keys", key, json=body))


def test_a_malformed_key_is_refused(post: Post) -> None:
    for key in ("", "two words", "x" * 256):
        refused = post("/v1/keys", key, json={"name": "shop", "roles": []})
        assert refused.status_code == 400, key
        assert refused.json()["type"].endswith(":unfit-idempotency-key")


@begins_with()
def test_the_client_repeats_a_request_after_a_broken_connection(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = service.operator.upload_dataset("birds", service.archive(["auk"]))
    request, lost = httpx.Client.request, []

    def breaks_after_the_first_answer(self: httpx.Client, method: str, *arguments: Any, **options: Any) -> Any:
        answer = request(self, method, *arguments, **options)
        if method == "POST" and not lost:
            lost.append(answer.json()["id"])
            raise httpx.ReadError("the connection broke")
        return answer

    monkeypatch.setattr(httpx.Client, "request", breaks_after_the_first_answer)
    deposit = service.operator.request_deposit("birds", dataset["id"], reason="licence ended")
    assert [deposit["id"]] == lost
    assert len(service.reader.deposits("birds")) == 1


def test_the_client_reports_a_refusal_at_once(service: Service) -> None:
    with pytest.raises(LirfError, match="There is no model"):
        service.operator.request_deposit("dodos", "x", reason="licence ended")
