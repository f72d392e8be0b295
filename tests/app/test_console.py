"""The console over HTTP: who gets in, what each role may do, and that no other site can act for them."""

import re
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import httpx
import pytest

from app.access.service import Role
from app.base.paging import PageRequest
from app.console import sign_in
from app.main import routes as application_routes
from lirf_client import LirfError
from tests.app.conftest import Service, begins_with, on_one_database
from tests.app.factories import CLASSES, png
from worker.examination import examine

OPEN = {"/console/sign-in", "/console/sign-out", "/console/static"}
NEEDS = {
    "POST /console/withdrawals": {Role.CUSTODIAN},
    "POST /console/withdrawals/{withdrawal_id}/renewal": {Role.CUSTODIAN},
    "POST /console/withdrawals/{withdrawal_id}/revocation": {Role.CUSTODIAN},
    "POST /console/withdrawals/{withdrawal_id}/token": {Role.CUSTODIAN},
    "POST /console/deposits/{deposit_id}/cancellation": {Role.OPERATOR},
    "POST /console/deposits/{deposit_id}/evidence": {Role.OPERATOR, Role.AUDITOR},
    "POST /console/models/{name}/base": set(),
    "POST /console/models/{name}/rebases": {Role.OPERATOR},
    "POST /console/rebases/{rebase_id}/cancellation": {Role.OPERATOR},
    "POST /console/models/{name}/hardenings": {Role.OPERATOR},
    "POST /console/hardenings/{hardening_id}/cancellation": {Role.OPERATOR},
    "POST /console/models/{name}/measurements": {Role.OPERATOR, Role.AUDITOR},
    "POST /console/evidence/{evidence_id}/cancellation": {Role.OPERATOR, Role.AUDITOR},
    "POST /console/deposits/{deposit_id}/restoration": {Role.CUSTODIAN},
    "POST /console/deposits/{deposit_id}/restoration/end": {Role.CUSTODIAN},
    "POST /console/deposits/{deposit_id}/purge": set(),
    "POST /console/models/{name}/policy": set(),
    "POST /console/models/{name}/removal": set(),
    "POST /console/approvals/{approval_id}/approval": {Role.OPERATOR, Role.CUSTODIAN},
    "POST /console/approvals/{approval_id}/refusal": {Role.OPERATOR, Role.CUSTODIAN},
    "GET /console/audit": {Role.AUDITOR},
    "GET /console/audit/verification": {Role.AUDITOR},
    "GET /console/audit/export": {Role.AUDITOR},
    "GET /console/keys": set(),
    "POST /console/keys": set(),
    "POST /console/keys/{key_id}/revocation": set(),
}
BIRDS = "/console/models/birds"
FROM_HERE = {"Sec-Fetch-Site": "same-origin"}


def routes() -> Iterator[tuple[str, str]]:
    """Every method and path of the console, from the application itself."""

    def of(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
        for route in routes:
            if (included := getattr(route, "original_router", None)) is not None:
                yield from of(included.routes)
            elif getattr(route, "path", "").startswith("/console"):
                for method in getattr(route, "methods", None) or ["GET"]:
                    yield method, route.path

    yield from of(application_routes().routes)


@contextmanager
def signed_in(service: Service, *roles: Role, name: str = "somebody") -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, headers=FROM_HERE, follow_redirects=True, timeout=60) as client:
        answer = client.post("/console/sign-in", data={"key": service.key_of(name, *roles)})
        assert answer.url.path == "/console/models"
        yield client


def once(page: str) -> str:
    """The one-time value of a form on the page."""
    match = re.search(r'name="once" value="([\w-]+)"', page)
    assert match
    return match[1]


def test_nobody_gets_in_without_a_session(service: Service) -> None:
    seen = set()
    with httpx.Client(base_url=service.url, headers=FROM_HERE, timeout=60) as client:
        for method, path in routes():
            seen.add(f"{method} {path}")
            if path in OPEN:
                continue
            for cookie in ("", "x", "AAAA"):
                sent = {"Cookie": f"{sign_in.COOKIE}={cookie}"}
                answer = client.request(method, re.sub(r"\{.*?\}", "x", path), headers=sent)
                assert answer.status_code == 303, (method, path)
                assert answer.headers["Location"].startswith("/console/sign-in")
    assert NEEDS.keys() <= seen
    assert len(seen) > len(NEEDS)


@on_one_database
@pytest.mark.parametrize("role", [None, *Role])
def test_each_role_may_do_only_what_the_matrix_says(service: Service, role: Role | None) -> None:
    with signed_in(service, *([role] if role else [])) as client:
        for method, path in routes():
            if path in OPEN:
                continue
            status = client.request(method, re.sub(r"\{.*?\}", "x", path)).status_code
            needed = NEEDS.get(f"{method} {path}")
            is_allowed = needed is None or role == Role.ADMINISTRATOR or role in needed
            assert (status == 403) is not is_allowed, (method, path, status)
            assert status < 500


@on_one_database
def test_forms_from_other_sites_change_nothing(service: Service) -> None:
    with signed_in(service, Role.ADMINISTRATOR) as client:
        for headers in (
            {"Sec-Fetch-Site": "cross-site"},
            {"Sec-Fetch-Site": "same-site"},
            {"Sec-Fetch-Site": "none", "Origin": service.url},
        ):
            for method, path in routes():
                if method == "POST":
                    answer = client.post(re.sub(r"\{.*?\}", "x", path), headers=headers)
                    assert answer.status_code == 403, (path, headers)
                    assert "another site" in answer.text
        del client.headers["Sec-Fetch-Site"]  # an old browser
        form = {"name": "k", "lasts": "day", "once": "of-one-form-alone"}
        assert client.post("/console/keys", data=form, headers={"Origin": "https://evil.org"}).status_code == 403
        assert client.post("/console/keys", data=form, headers={"Origin": "null"}).status_code == 403
        assert client.post("/console/keys", data=form).status_code == 403
        assert client.post("/console/keys", data=form, headers={"Origin": service.url}).status_code == 200


@on_one_database
def test_cookie_is_out_of_reach_of_scripts_and_holds_no_readable_key(service: Service) -> None:
    key = service.key_of("team", Role.AUDITOR)
    answer = httpx.post(f"{service.url}/console/sign-in", data={"key": key}, headers=FROM_HERE, timeout=60)
    attributes = answer.headers["Set-Cookie"].lower().split("; ")
    assert {"httponly", "samesite=strict", "path=/console"} <= set(attributes)
    assert key.split("_", 2)[2] not in answer.headers["Set-Cookie"] + answer.text
    page = httpx.get(f"{service.url}/console/models", cookies=answer.cookies, timeout=60)
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert page.headers["Cache-Control"] == "no-store"
    assert not re.search(r"<script>|\son\w+=|style=|https?://", page.text.replace(service.url, ""))


def test_session_ends_with_its_key_and_after_its_time(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    auditor = service.administrator.create_key("team", ["auditor"])
    client = httpx.Client(base_url=service.url, headers=FROM_HERE, timeout=60)
    client.post("/console/sign-in", data={"key": auditor["key"]})
    assert client.get("/console/audit").status_code == 200
    cookie = client.cookies[sign_in.COOKIE]
    service.administrator.revoke_key(auditor["id"])
    assert client.get("/console/audit").status_code == 303
    refused = client.post("/console/sign-in", data={"key": auditor["key"]})
    assert (refused.status_code, "expired or revoked" in refused.text) == (401, True)

    monkeypatch.setattr(sign_in, "SECONDS", -1)
    other = httpx.post(
        f"{service.url}/console/sign-in", data={"key": service.key_of("b", Role.AUDITOR)}, headers=FROM_HERE, timeout=60
    )
    expired = {sign_in.COOKIE: other.headers["Set-Cookie"].partition("=")[2].partition(";")[0]}
    assert httpx.get(f"{service.url}/console/audit", cookies=expired, timeout=60).status_code == 303
    assert expired[sign_in.COOKIE] != cookie
    client.close()


def test_a_copy_of_the_cookie_is_worth_nothing_after_the_sign_out(service: Service) -> None:
    key = service.key_of("team", Role.AUDITOR)
    own, other = (httpx.Client(base_url=service.url, headers=FROM_HERE, timeout=60) for _ in range(2))
    for client in (own, other):
        client.post("/console/sign-in", data={"key": key})
    stolen = dict(own.cookies)
    assert httpx.get(f"{service.url}/console/audit", cookies=stolen, timeout=60).status_code == 200
    own.post("/console/sign-out")
    assert httpx.get(f"{service.url}/console/audit", cookies=stolen, timeout=60).status_code == 303
    assert other.get("/console/audit").status_code == 200  # another browser of the same person
    for client in (own, other):
        client.close()


@on_one_database
@begins_with()
def test_bodies_from_strangers_and_endless_bodies_are_not_read(service: Service) -> None:
    headers = {**FROM_HERE, "Content-Type": "multipart/form-data; boundary=x"}
    comparison = f"{service.url}/console/models/birds/comparison"
    with signed_in(service) as client:
        cookies = dict(client.cookies)
    head = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
    large = head + bytes(service.settings.max_body_bytes)
    for url, own, body, status in (
        (comparison, {}, b"no form at all", 303),
        (comparison, cookies, b"no form at all", 400),
        (comparison, cookies, large, 413),
        (f"{service.url}/console/sign-in", {}, large, 413),
    ):
        assert httpx.post(url, content=body, headers=headers, cookies=own, timeout=60).status_code == status


def test_nul_characters_are_refused_without_harm_to_others(service: Service) -> None:
    """PostgreSQL accepts no NUL in any text."""
    headers = {**FROM_HERE, "Content-Type": "application/x-www-form-urlencoded"}
    key = httpx.post(f"{service.url}/console/sign-in", content="key=lirf_%00_x", headers=headers, timeout=60)
    assert key.status_code == 401
    service.register()
    with signed_in(service, Role.ADMINISTRATOR) as client:
        for path, body in (
            ("/console/withdrawals", "deposit=%00&holder=h&reason=r&lasts=day&once=of-one-form-alone"),
            ("/console/models/birds/policy", "version=1&original=seal&reason=%00"),
            ("/console/keys", "name=%00&lasts=day&once=of-one-form-alone"),
        ):
            assert client.post(path, content=body, headers=headers).status_code == 422, path
        images = {"image": ("bird.png", png(3, size=20), "image/png")}
        data = {"left": "\0", "right": "served"}
        assert client.post("/console/models/birds/comparison", files=images, data=data).status_code == 422
        assert client.get("/console/audit?by=%00").status_code == 422
        assert client.get("/console/models?cursor=%00").status_code == 422


@on_one_database
def test_ended_session_leads_back_to_the_whole_page(service: Service) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": f"{service.url}/console/deposits/1?x=y"}
    answer = httpx.get(f"{service.url}/console/deposits/1/progress", headers=headers, timeout=60)
    assert answer.headers["HX-Redirect"] == "/console/sign-in?next=/console/deposits/1"


@on_one_database
def test_signing_in_never_leads_to_another_site(service: Service) -> None:
    for destination, location in {
        "/console/audit": "/console/audit",
        "https://evil.org/console/": "/console/models",
        "//evil.org/console/": "/console/models",
        "/v1/models": "/console/models",
    }.items():
        form = {"key": service.key_of("a", Role.AUDITOR), "next": destination}
        answer = httpx.post(f"{service.url}/console/sign-in", data=form, headers=FROM_HERE, timeout=60)
        assert answer.headers["Location"] == location


@on_one_database
def test_missing_page_is_reported_on_a_page(service: Service) -> None:
    with signed_in(service) as client:
        answer = client.get("/console/nothing/here")
        assert (answer.status_code, "<h1>Not Found</h1>" in answer.text) == (404, True)
        assert "Content-Security-Policy" in answer.headers
        assert client.get("/console/static/console.css").headers["Content-Type"].startswith("text/css")
        assert client.get("/console/static/nothing.css").status_code == 404


@on_one_database
@begins_with()
def test_names_from_users_are_only_ever_text(service: Service) -> None:
    hostile = "<script>alert(1)</script>"
    deposit = service.deposit(["auk"], reason=hostile)
    service.custodian.withdraw([deposit], holder=hostile, reason=hostile)
    service.administrator.create_key(hostile, [])
    with signed_in(service, Role.ADMINISTRATOR) as client:
        for path in ("/console/models/birds", f"/console/deposits/{deposit}", "/console/audit", "/console/keys"):
            text = client.get(path).text
            assert "&lt;script&gt;alert(1)" in text, path
            assert hostile not in text, path


@begins_with("auk")
def test_classes_are_withdrawn_renewed_and_revoked(service: Service) -> None:
    deposit = service.deposits[0]
    with signed_in(service, Role.CUSTODIAN, name="press desk") as client:
        form = {"deposit": deposit, "holder": "the fair", "reason": "licensed", "lasts": "day"}
        form |= {"once": once(client.get(BIRDS).text)}
        page = client.post("/console/withdrawals", data=form)
        assert page.url.path == "/console/models/birds"
        assert "the fair" in page.text
        [withdrawal] = service.reader.withdrawals()
        assert (withdrawal["created_by"], withdrawal["state"]) == ("press desk", "active")
        client.post(f"/console/withdrawals/{withdrawal['id']}/renewal", data={"lasts": "week", "reason": "longer"})
        assert service.reader.withdrawals()[0]["expires_at"] > withdrawal["expires_at"]  # type: ignore[operator]
        page = client.post(f"/console/withdrawals/{withdrawal['id']}/revocation")
        assert "There are no active withdrawals" in page.text
        assert service.reader.withdrawals()[0]["state"] == "revoked"
        again = client.post(f"/console/withdrawals/{withdrawal['id']}/revocation")
        assert (again.status_code, "was revoked at" in again.text) == (410, True)
        nothing = client.post("/console/withdrawals", data={**form, "deposit": []})
        assert (nothing.status_code, "deposits" in nothing.text) == (422, True)
        form |= {"visibility": "held", "once": once(client.get(BIRDS).text)}
        held = client.post("/console/withdrawals", data=form)
        assert "only requests with its token see the classes" in held.text
        [held_one] = [one for one in service.reader.withdrawals() if one["state"] == "active"]
        form, action = {"once": once(held.text)}, f"/console/withdrawals/{held_one['id']}/token"
        token = re.search(r"lirfw_[\w-]+", client.post(action, data=form).text)
        assert token
        assert token[0] not in client.get("/console/models/birds").text
        reloaded = client.post(action, data=form)  # must not replace the token that was just copied
        assert (reloaded.url.path, "lirfw_" in reloaded.text) == ("/console/models/birds", False)
        issued = service.administrator.audit_events(action="withdrawal.token_issued")
        assert len(list(issued)) == 1


@pytest.mark.parametrize("needs_second_person", [False, True])
@begins_with("auk")
def test_form_sent_twice_at_once_withdraws_once(service: Service, needs_second_person: bool) -> None:
    deposit = service.deposits[0]
    if needs_second_person:
        service.administrator.change_policy("birds", reason="rule of two", needs_second_person=True)
    with signed_in(service, Role.CUSTODIAN) as client, ThreadPoolExecutor(2) as clicks:
        form = {"deposit": deposit, "holder": "h", "reason": "r", "lasts": "hour", "once": once(client.get(BIRDS).text)}
        pages = list(clicks.map(lambda _: client.post("/console/withdrawals", data=form), range(2)))
        pages.append(client.post("/console/withdrawals", data=form))  # and again, from a page still open
    assert {page.url.path for page in pages} == {"/console/approvals" if needs_second_person else BIRDS}
    assert len(service.administrator.approvals()) == needs_second_person
    assert len(service.reader.withdrawals()) == (not needs_second_person)


@begins_with("auk emu")
def test_purge_needs_its_classes_typed(service: Service) -> None:
    deposit = service.deposits[0]
    with signed_in(service, Role.ADMINISTRATOR) as client:
        form = {"confirmation": "auk", "reason": "asked for"}
        refused = client.post(f"/console/deposits/{deposit}/purge", data=form)
        assert (refused.status_code, "auk, emu" in refused.text) == (422, True)
        assert service.reader.deposit(deposit)["state"] == "deposited"
        done = client.post(f"/console/deposits/{deposit}/purge", data={**form, "confirmation": "auk, emu"})
        assert done.url.path == f"/console/deposits/{deposit}"
        assert service.reader.deposit(deposit)["state"] == "purged"


@begins_with("auk")
def test_second_person_approves_what_the_first_requests(service: Service) -> None:
    deposit = service.deposits[0]
    with (
        signed_in(service, Role.ADMINISTRATOR, name="first") as first,
        signed_in(service, Role.ADMINISTRATOR, name="second") as second,
    ):
        policy = {"version": 1, "original": "seal", "needs_second_person": "true", "reason": "rule of two"}
        assert "need a second person" in first.post("/console/models/birds/policy", data=policy).text
        stale = first.post("/console/models/birds/policy", data=policy)
        assert stale.status_code == 412
        form = {"deposit": deposit, "holder": "h", "reason": "r", "lasts": "hour", "once": once(first.get(BIRDS).text)}
        waiting = first.post("/console/withdrawals", data=form)
        assert waiting.url.path == "/console/approvals"
        assert "withdraw auk for h, visible to everybody, for 1 hour from the approval" in waiting.text
        [asked] = service.administrator.approvals(waiting=True)
        own = first.post(f"/console/approvals/{asked['id']}/approval")
        assert (own.status_code, "Somebody else must approve it" in own.text) == (403, True)
        assert "No request is waiting" in second.post(f"/console/approvals/{asked['id']}/approval").text
        assert service.reader.withdrawals()[0]["state"] == "active"


@on_one_database
@begins_with("auk")
def test_image_is_compared_in_two_views(service: Service) -> None:
    service.custodian.withdraw([service.deposits[0]], holder="h", reason="r")
    images = {"image": ("bird.png", png(3, size=20), "image/png")}
    with signed_in(service, Role.ADMINISTRATOR) as client:
        page = client.post("/console/models/birds/comparison", files=images, data={"left": "served", "right": "target"})
        served, target = page.text.split("Target network alone")
        assert ">auk<" in served
        assert ">auk<" not in target
        broken = {"image": ("bird.png", b"no image", "image/png")}
        refused = client.post("/console/models/birds/comparison", files=broken, headers={"HX-Request": "true"})
        assert (refused.status_code, refused.text.count("<html")) == (422, 0)
    with signed_in(service) as reader:
        data = {"left": "served", "right": "target"}
        assert reader.post("/console/models/birds/comparison", files=images, data=data).status_code == 403


@begins_with("auk")
def test_audit_is_filtered_exported_and_verified(service: Service) -> None:
    with signed_in(service, Role.AUDITOR) as client:
        assert "deposit.finished" in client.get("/console/audit").text
        filtered = client.get("/console/audit", params={"action": "deposit.finished"}).text
        assert filtered.count("<td>deposit.finished</td>") == 1
        assert "<td>deposit.requested</td>" not in filtered
        lines = client.get("/console/audit/export", params={"format": "csv", "action": "deposit.finished"}).text
        assert lines.count("deposit.finished") == 1
        assert "Intact" in client.get("/console/audit/verification").text


def test_key_is_shown_once(service: Service) -> None:
    with signed_in(service, Role.ADMINISTRATOR) as client:
        form = {"name": "guest", "role": ["auditor"], "lasts": "day", "once": once(client.get("/console/keys").text)}
        page = client.post("/console/keys", data=form)
        key = re.search(r"lirf_\w{12}_[\w-]{20,}", page.text)
        assert key
        assert key[0] not in client.get("/console/keys").text
        with signed_in(service, name="x") as other:
            assert other.post("/console/sign-in", data={"key": key[0]}).status_code == 200
        assert "lirf_" + key[0].split("_")[1] in client.post("/console/keys", data=form).text  # a reload
        [guest] = [one for one in service.administrator.keys() if one["name"] == "guest"]  # noqa: SIM118
        client.post(f"/console/keys/{guest['id']}/revocation")
        with pytest.raises(LirfError, match="no API key"):
            service.administrator.revoke_key(guest["id"])


@begins_with()
def test_losses_of_a_finished_deposit_stay_visible(service: Service) -> None:
    deposit = service.deposit(["auk"], config={"epochs": 4})
    with signed_in(service) as client:
        page = client.get(f"/console/deposits/{deposit}").text
    assert re.search(r'data-curve="[^"]*step', page)
    assert "Deposited after" in page


@on_one_database
@begins_with()
def test_states_of_classes_are_counted(service: Service) -> None:
    lent, purged, restored = (service.deposit([name], evidence=False) for name in ("auk", "dodo", "emu"))
    service.custodian.withdraw([lent], holder="h", reason="r")
    service.administrator.purge(purged, classes=["dodo"], reason="r")
    service.custodian.restore(restored, reason="r")
    service.queue(["heron"])
    with signed_in(service) as client:
        for path in ("/console/models", "/console/models/birds"):
            states = re.search(r'<p class="states">(.*?)</p>', client.get(path).text)
            assert states
            counts = dict(re.findall(r'class="state (\w+)">(\d \w+)', states[1]))
            assert list(counts.values()) == ["1 preserved", "1 depositing", "1 withdrawn", "1 restored", "1 purged"]
    assert sorted(one["state"] for one in service.reader.classes("birds")) == sorted(counts)


@on_one_database
@begins_with("auk")
def test_timeline_says_that_it_is_not_whole(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.console.timeline.NEWEST", PageRequest(limit=2))
    deposit_id = service.deposits[0]
    with signed_in(service) as client:
        for holder in ("one", "two", "three"):
            assert "newest are shown" not in client.get(f"/console/deposits/{deposit_id}").text
            service.custodian.withdraw([deposit_id], holder=holder, reason="r")
        page = client.get(f"/console/deposits/{deposit_id}").text
    assert "newest are shown" in page
    assert ("withdrawn for one" in page, "withdrawn for two" in page) == (False, True)


@on_one_database
@begins_with("auk")
def test_timeline_remembers_restorations_that_ended(service: Service) -> None:
    deposit_id = service.deposits[0]
    for reason in ("the licence is back", "once more"):
        service.custodian.restore(deposit_id, reason=reason)
        service.custodian.end_restoration(deposit_id)
    with signed_in(service) as client:
        for path in ("/console/models/birds", f"/console/deposits/{deposit_id}"):
            text = re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", client.get(path).text))
            assert text.count("restoration ended by custodian") == 2
            assert "restored by custodian: the licence is back" in text
            assert "restored by custodian: once more" in text


@on_one_database
@begins_with(is_trained=True)
def test_timeline_of_a_deposit_has_its_withdrawals_evidence_and_certificates(service: Service) -> None:
    service.operator.upload_dataset("birds", service.archive(CLASSES, each=6), purpose="evaluation")
    deposit_id, other = service.deposit(["auk"], evidence=False), service.deposit(["dodo"], evidence=False)
    service.custodian.withdraw([other], holder="another", reason="r")
    lent = service.custodian.withdraw([deposit_id, other], holder="the fair", reason="licensed for a day")
    service.custodian.revoke(lent["id"])
    service.custodian.withdraw([deposit_id], holder="the museum", reason="an evening", expires_in_seconds=0.1)
    time.sleep(0.2)
    evidence_id = service.operator.request_evidence(deposit_id)["id"]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("lirf_core.evidence.examination.PARTS", ("answers",))
        examine(service.worker, evidence_id)
    service.auditor.certificate(evidence_id)
    service.operator.cancel_evidence(service.auditor.request_evidence(deposit_id)["id"])
    with signed_in(service) as client:
        html = client.get(f"/console/deposits/{deposit_id}").text
    lines = re.findall(r"<li><time.*?</time>(.*?)</li>", html, re.DOTALL)
    texts = [re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", line)).strip() for line in lines]
    assert texts == [
        "deposit requested by operator: licence ended",
        "deposited",
        "withdrawn for the fair by custodian: licensed for a day",
        "withdrawal revoked by custodian",
        "withdrawn for the museum by custodian: an evening",
        "withdrawal expired",
        "evidence requested by operator",
        "evidence finished",
        "certificate issued (PDF) by auditor",
        "evidence requested by auditor",
        "evidence cancelled by operator",
    ]
