"""A key that is bound to models sees and does nothing elsewhere, on every route of the API and of the console."""

import re
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from app.access import service as access
from app.access.service import LOCAL_ADMINISTRATOR, Role
from app.base.trust_domain import EVERYTHING, NOTHING, TrustDomain, is_covered
from lirf_client import AwaitingApproval, Client, LirfError
from migrations.tables import metadata
from tests.app.conftest import HTTP, Service, begins_with
from tests.app.factories import CLASSES, deposit_zip, infer_request, png
from tests.app.test_console import FROM_HERE
from tests.app.test_console import routes as console_routes

WORD = r"\{(\w+)\}"
NOWHERE = "0193a1c2-7f00-7000-8000-000000000000"
SPEC = {
    "architecture": {"name": "resnet18-small", "width": 0.25},
    "classes": CLASSES,
    "preprocessing": {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]},
}
REASON = {"reason": "curiosity"}
POLICY = {"original": "destroy", "needs_second_person": False, **REASON}
# A valid body for each route that takes one. {word} stands for the thing elsewhere, or for one that does not exist.
BODIES: dict[str, dict[str, Any]] = {
    "DELETE /v1/models/{name}": {"params": {"confirm": "{name}", **REASON}},
    "PUT /v1/models/{name}/weights": {"content": b"no weights"},
    "POST /v1/models/{name}/datasets": {"params": {"purpose": "evaluation"}, "content": deposit_zip(["auk"])},
    "POST /v1/models/{name}/deposits": {"json": {"dataset_id": "{dataset_id}", **REASON}},
    "POST /v1/models/{name}/measurements": {"json": {}},
    "POST /v1/models/{name}/rebases": {"json": {"dataset_id": "{dataset_id}", **REASON}},
    "POST /v1/models/{name}/hardenings": {"json": {}},
    "POST /v1/models/{name}/base": {"json": {"confirm": "{name}", **REASON}},
    "POST /v1/deposits/{deposit_id}/evidence": {"json": {}},
    "POST /v1/withdrawals": {"json": {"deposits": ["{deposit_id}"], "holder": "spy", **REASON}},
    "POST /v1/withdrawals/{withdrawal_id}/renewal": {"json": {"expires_in_seconds": 5, **REASON}},
    "POST /v1/deposits/{deposit_id}/restoration": {"json": REASON},
    "POST /v1/deposits/{deposit_id}/purge": {"json": {"classes": ["auk"], **REASON}},
    "POST /v1/approvals/{approval_id}/refuse": {"json": REASON},
    "PUT /v1/models/{name}/policy": {"json": POLICY, "headers": {"If-Match": '"2"'}},
    "POST /v1/audit/verification": {"json": {"anchors": [{"number": 1, "digest": "0" * 64}]}},
    "POST /v1/keys": {"json": {"name": "accomplice", "roles": ["administrator"]}},
    "POST /v2/repository/index": {"json": {}},
    "POST /v2/models/{name}/infer": {"json": infer_request()},
    "POST /v2/models/{name}/versions/{version}/infer": {"json": infer_request()},
    "POST /v1/models/{name}/predict": {"files": {"image": png()}},
}
ONCE = {"once": "a-form-of-this-test"}
FORMS: dict[str, dict[str, Any]] = {
    "POST /console/withdrawals": {"deposit": "{deposit_id}", "holder": "spy", "lasts": "day", **REASON, **ONCE},
    "POST /console/withdrawals/{withdrawal_id}/renewal": {"lasts": "day", **REASON},
    "POST /console/withdrawals/{withdrawal_id}/token": ONCE,
    "POST /console/deposits/{deposit_id}/restoration": REASON,
    "POST /console/deposits/{deposit_id}/purge": {"confirmation": "auk", **REASON},
    "POST /console/models/{name}/policy": {"version": 2, "original": "destroy", **REASON},
    "POST /console/models/{name}/rebases": REASON,
    "POST /console/models/{name}/base": {"confirmation": "{name}", **REASON},
    "POST /console/models/{name}/removal": {"confirmation": "{name}", **REASON},
    "POST /console/approvals/{approval_id}/refusal": REASON,
    "POST /console/keys": {"name": "accomplice", "role": "administrator", "lasts": "day", **ONCE},
}
FORM_FILES = {"POST /console/models/{name}/comparison": {"image": png()}}
# About the installation as a whole, so not for a bound key.
INSTALLATION = {
    "GET /v1/audit/head",
    "GET /v1/audit/verification",
    "POST /v1/audit/verification",
    "GET /console/audit/verification",
}
# Queries that name something elsewhere.
QUERIES = {
    "GET /v1/withdrawals": {"model": "{name}"},
    "GET /v1/approvals": {"model": "{name}"},
    "GET /v1/audit/events": {"model": "{name}"},
    "GET /v1/audit/events/export": {"model": "{name}"},
    "GET /console/audit": {"model": "{name}"},
    "GET /console/audit/export": {"model": "{name}"},
}
ADVICE = """

A key that is bound to other models must get the same answer for a thing elsewhere as for one that does not exist.
How to scope a new route: call the model in its path `{name}`, and read rows through the session of the request. The
session shows only rows of the caller's models (app/base/trust_domain.py) if their table has `model_id`, `deposit_id`,
`withdrawal_id` or `model`. If the route takes a new kind of id, add one from elsewhere to the fixture `elsewhere` of
this test; if it takes a body or form, a valid one to BODIES or FORMS. If it is about the installation as a whole, call
`access.demand_unbound(actor)` and add it to INSTALLATION."""


@pytest.fixture
def elsewhere(service: Service) -> dict[str, str]:
    """The ids of things of the model birds, of every kind that a path or body may name."""
    [deposit_id] = service.deposits
    withdrawal = service.custodian.withdraw([deposit_id], holder="press", reason="the fair", visibility="held")
    images = service.operator.upload_dataset("birds", service.archive(["auk"]))
    rebase = service.operator.request_rebase("birds", dataset_id=images["id"], keep_dataset=True, reason="r")
    service.administrator.change_policy("birds", reason="two", needs_second_person=True, hardening="served")
    hardening = service.operator.request_hardening("birds", dataset_id=images["id"])
    with pytest.raises(AwaitingApproval) as awaiting:
        service.custodian.withdraw([deposit_id], holder="museum", reason="the fair")
    headers = bearer(service.key_of("o", Role.OPERATOR))

    def newest(things: str) -> str:
        return str(HTTP.get(f"{service.url}/v1/models/birds/{things}", headers=headers).json()["items"][0]["id"])

    return {
        "name": "birds",
        "deposit_id": deposit_id,
        "withdrawal_id": withdrawal["id"],
        "approval_id": awaiting.value.approval["id"],
        "evidence_id": service.reader.evidence_of(deposit_id)[0]["id"],
        "dataset_id": newest("datasets"),
        "measurement_id": newest("measurements"),
        "hardening_id": hardening["id"],
        "rebase_id": rebase["id"],
        "key_id": service.administrator.keys()[0]["id"],
    }


def bound(service: Service, *patterns: str, name: str = "bound", role: Role = Role.ADMINISTRATOR) -> str:
    """A key that is bound to models; an administrator's, so that no role stands in the way."""
    with service.database.session() as session:
        return access.create_key(session, LOCAL_ADMINISTRATOR, name, [role], models=patterns)[1]


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def filled(value: Any, words: dict[str, str]) -> Any:
    """The value with the {words} replaced, in every text of it."""
    if isinstance(value, str):
        return re.sub(WORD, lambda match: words[match[1]], value)
    if isinstance(value, dict):
        return {name: filled(item, words) for name, item in value.items()}
    return [filled(item, words) for item in value] if isinstance(value, list) else value


def nowhere(elsewhere: dict[str, str]) -> dict[str, str]:
    return dict.fromkeys(elsewhere, NOWHERE) | {"name": "eu-nothing", "version": "0", "format": "html", "path": "x"}


def stored(service: Service) -> set[str]:
    """Every row that belongs to a model, as text."""
    with service.database.engine.connect() as connection:
        tables = [table for table in metadata.sorted_tables if is_covered(table) or table.name == "api_keys"]
        # When a key was last used is no change of this kind.
        columns = {table.name: [column for column in table.c if column.name != "last_used_at"] for table in tables}
        return {f"{name} {row}" for name, of in columns.items() for row in connection.execute(sa.select(*of))}


def shown(answer: httpx.Response, words: dict[str, str]) -> tuple[int, str]:
    """The status and the text, without the words and without what is new in each answer."""
    text = answer.text
    for word in words.values():
        text = text.replace(word, "-") if len(word) > 4 else text
    text = re.sub(r'(name="once" value)="[^"]*"|(lirf_request\w*|process_\w+|python_\w+).*\n', "", text)
    return answer.status_code, text


def assert_reveals_nothing(route: str, answer: httpx.Response, elsewhere: dict[str, str]) -> None:
    text = answer.text.replace("register birds --weights birds.safetensors", "")  # the example on the empty page
    for word in [*elsewhere.values(), *CLASSES]:
        assert word not in text, f"{route} shows '{word}', which is elsewhere.{ADVICE}"


def api_routes(service: Service) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, operations in HTTP.get(f"{service.url}/openapi.json").json()["paths"].items():
        for method, operation in operations.items():
            yield f"{method.upper()} {path}", operation


@begins_with("auk", has_evaluation_set=True, is_examined=True)
def test_no_route_of_the_api_tells_a_bound_key_of_things_elsewhere(service: Service, elsewhere: dict[str, str]) -> None:
    client = httpx.Client(base_url=service.url, headers=bearer(bound(service, "eu-*")), timeout=60)
    before, missing = stored(service), nowhere(elsewhere)
    for route, operation in api_routes(service):
        method, path = route.split()
        if path.startswith("/v2/health") or route == "POST /v1/models":  # which has a test of its own
            continue
        assert "requestBody" not in operation or route in BODIES, f"{route} has no body in BODIES.{ADVICE}"
        options = {**BODIES.get(route, {}), **({"params": QUERIES[route]} if route in QUERIES else {})}
        assert set(re.findall(r"\{(\w+)\}", path)) <= missing.keys(), f"{route} takes an id of a new kind.{ADVICE}"
        answers = [
            client.request(method, filled(path, words), **filled(options, words))
            for words in ({**missing, **elsewhere}, missing)
        ]
        if route in INSTALLATION:
            assert answers[0].json()["type"] == "urn:lirf:problem:bound-key", route
            continue
        names_something = re.search(WORD, f"{path} {options}")
        if names_something:
            assert shown(answers[0], elsewhere) == shown(answers[1], missing), f"{route} differs.{ADVICE}"
        if "{" in path:
            assert answers[0].status_code == 404, f"{route} answers {answers[0].status_code}.{ADVICE}"
        elif not names_something:
            assert_reveals_nothing(route, answers[0], elsewhere)
    assert stored(service) >= before, f"something elsewhere was changed.{ADVICE}"
    # An export is an event, and names what the key itself asked for.
    others = {row for row in stored(service) - before if "birds" in row and "'audit.exported'" not in row}
    assert not others, f"{others} is new elsewhere.{ADVICE}"
    client.close()


@begins_with("auk", has_evaluation_set=True, is_examined=True)
def test_no_page_or_form_of_the_console_tells_a_bound_key_of_things_elsewhere(
    service: Service, elsewhere: dict[str, str]
) -> None:
    before, missing = stored(service), nowhere(elsewhere)
    with httpx.Client(base_url=service.url, headers=FROM_HERE, follow_redirects=True, timeout=60) as client:
        client.post("/console/sign-in", data={"key": bound(service, "eu-*")})
        for method, path in console_routes():
            route = f"{method} {path}"
            if path in ("/console/sign-in", "/console/sign-out", "/console/static"):
                continue
            assert set(re.findall(r"\{(\w+)(?::\w+)?\}", path)) <= missing.keys(), f"{route} takes a new id.{ADVICE}"
            path = path.replace("{path:path}", "{path}")
            answers = [
                client.request(
                    method,
                    filled(path, words),
                    params=filled(QUERIES.get(route, {}), words),
                    data=filled(FORMS.get(route), words),
                    files=FORM_FILES.get(route),
                )
                for words in ({**missing, **elsewhere}, missing)
            ]
            assert answers[0].status_code != 422, f"{route} has no valid form in FORMS: {answers[0].text}{ADVICE}"
            if route in INSTALLATION:
                assert answers[0].status_code == 403, route
            elif re.search(WORD, f"{path} {FORMS.get(route)}"):
                assert shown(answers[0], elsewhere) == shown(answers[1], missing), f"{route} differs.{ADVICE}"
                assert answers[0].status_code == 404, f"{route} answers {answers[0].status_code}.{ADVICE}"
            elif route not in QUERIES:
                assert_reveals_nothing(route, answers[0], elsewhere)
    assert stored(service) >= before, f"something elsewhere was changed.{ADVICE}"


def test_every_table_is_within_trust_domains_or_belongs_to_the_installation() -> None:
    installation = {
        *("api_keys", "audit_anchor", "audit_head", "console_sessions", "idempotency_keys", "job_checkpoints"),
        *("signing_keys", "vault_objects"),
    }
    others = {table.name for table in metadata.sorted_tables if not is_covered(table)}
    assert others == installation, (
        "A new table needs `model_id`, `deposit_id`, `withdrawal_id` or `model`, so that keys that are bound to models "
        "do not see rows of others. If its rows belong to no model, name it here."
    )


@begins_with("auk", has_evaluation_set=True, is_examined=True)
def test_a_bound_key_works_as_usual_within_its_models(service: Service) -> None:
    [deposit_id] = service.deposits
    with Client(service.url, bound(service, "cats", "bir*")) as lirf:
        assert [model["name"] for model in lirf.models()] == ["birds"]
        assert lirf.deposit(deposit_id)["state"] == "deposited"
        withdrawal = lirf.withdraw([deposit_id], holder="press", reason="the fair")
        assert lirf.infer("birds", infer_request())["parameters"]["withdrawals"] == [withdrawal["id"]]
        lirf.revoke(withdrawal["id"])
        assert lirf.evidence_of(deposit_id)
        events = list(lirf.audit_events())
        assert {event["model"] for event in events} == {"birds"}
        assert len(events) == len(list(service.auditor.audit_events(model="birds")))
        metrics = HTTP.get(f"{service.url}/metrics", headers=bearer(bound(service, "birds", name="prometheus"))).text
        assert 'lirf_deposits{state="deposited"} 1.0' in metrics
        assert "lirf_requests" not in metrics
    nothing = HTTP.get(f"{service.url}/metrics", headers=bearer(bound(service, "eu-*", name="other"))).text
    assert 'lirf_deposits{state="deposited"} 0.0' in nothing
    assert "lirf_active_withdrawals 0.0" in nothing


@begins_with("auk", has_evaluation_set=True, is_examined=True)
def test_things_elsewhere_do_not_exist_in_requests_about_ones_own_model(
    service: Service, elsewhere: dict[str, str]
) -> None:
    service.register("eu-birds")
    with Client(service.url, bound(service, "eu-*")) as lirf:

        def refusal(deposit_id: str, dataset_id: str, withdrawal_id: str) -> list[tuple[str, str]]:
            acts = [
                lambda: lirf.withdraw([deposit_id], holder="spy", reason="r"),
                lambda: lirf.request_deposit("eu-birds", dataset_id, reason="r"),
                lambda: lirf.infer("eu-birds", infer_request(withdrawal=withdrawal_id)),
                lambda: lirf.infer("eu-birds", infer_request(), tokens=[f"lirfw_{withdrawal_id}_x"]),
            ]
            problems = []
            for act in acts:
                with pytest.raises(LirfError) as refused:
                    act()
                text = str(refused.value)
                for word in (deposit_id, dataset_id, withdrawal_id):
                    text = text.replace(word, "-")
                problems.append((refused.value.type, text))
            return problems

        words = elsewhere["deposit_id"], elsewhere["dataset_id"], elsewhere["withdrawal_id"]
        assert refusal(*words) == refusal(NOWHERE, NOWHERE, NOWHERE)


@begins_with()
def test_a_cached_view_of_a_model_elsewhere_answers_no_bound_key(service: Service) -> None:
    assert service.reader.infer("birds", infer_request())["outputs"]
    with Client(service.url, bound(service, "eu-*")) as lirf:
        for ask in (lambda: lirf.infer("birds", infer_request()), lambda: lirf.classes("birds")):
            with pytest.raises(LirfError, match="There is no model 'birds'"):
                ask()


@begins_with()
def test_a_bound_key_creates_models_only_within_its_patterns(service: Service) -> None:
    with Client(service.url, bound(service, "eu-*", role=Role.OPERATOR)) as lirf:
        for name in ("birds", "cats"):  # the one exists, the other does not
            with pytest.raises(LirfError, match=f"'{name}' does not match") as refused:
                lirf.register_model(name, **SPEC)
            assert refused.value.type == "urn:lirf:problem:outside-trust-domain"
        assert lirf.register_model("eu-cats", **SPEC)["name"] == "eu-cats"


def test_a_bound_administrator_creates_sees_and_revokes_only_keys_within_its_models(service: Service) -> None:
    with Client(service.url, bound(service, "eu-*", "cats")) as lirf:
        for number, models in enumerate((None, ["*"], ["e*"], ["eu-a", "dogs"], ["*cats"])):
            with pytest.raises(LirfError) as refused:
                lirf.create_key(f"wide {number}", ["administrator"], models=models)
            assert refused.value.type == "urn:lirf:problem:outside-trust-domain", models
        narrow = lirf.create_key("narrow", ["administrator"], models=["eu-north-*", "cats"])
        own, every = lirf.keys(), service.administrator.keys()
        assert {key["name"] for key in own} == {"bound", "narrow"}
        for key in every:
            if key["name"] not in ("bound", "narrow"):
                with pytest.raises(LirfError, match="There is no API key"):
                    lirf.revoke_key(key["id"])
        lirf.revoke_key(narrow["id"])
    with pytest.raises(LirfError) as empty:
        service.administrator.create_key("nothing", [], models=[])
    assert empty.value.type == "urn:lirf:problem:invalid-request"


def test_patterns_match_whole_names_and_contain_each_other() -> None:
    domain = TrustDomain(("birds", "eu-*", "a*b*c"))
    assert all(map(domain.has, ("birds", "eu-", "eu-x", "abc", "a-b-b-c")))
    assert not any(map(domain.has, ("bird", "birds2", "eu", "my-eu-x", "ab", "acb", "")))
    assert not TrustDomain(("ab*b",)).has("ab")
    assert not TrustDomain(("a_c",)).has("abc")
    assert domain.includes(TrustDomain(("eu-north-*", "eu-*", "a*bc")))
    assert not domain.includes(TrustDomain(("e*",)))
    assert not domain.includes(EVERYTHING)
    assert EVERYTHING.includes(domain)
    assert not NOTHING.has("birds")
    assert TrustDomain(("a*" * 30 + "b",)).has("a" * 60) is False  # in no time


@begins_with()
def test_sql_and_python_agree_on_patterns(service: Service) -> None:
    names = ["birds", "bird_s", "bird.s", "eu-birds", "birdss"]
    for name in names[1:]:
        service.describe(name)
    models = metadata.tables["models"]
    with service.database.engine.connect() as connection:
        for pattern in ("birds", "bird_s", "bird*s", "*", "*birds", "bird.s", "b*d*"):
            domain = TrustDomain((pattern,))
            listed = set(connection.scalars(sa.select(models.c.name).where(domain.condition(models.c.name))))
            assert listed == {name for name in names if domain.has(name)}, pattern
