"""HTTP calls, one method each."""

import json
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

import httpx
from httpx_sse import connect_sse

from lirf_client.types import (
    Approval,
    AuditEvent,
    AuditHead,
    Dataset,
    Deposit,
    Evidence,
    EvidenceSummary,
    Model,
    ModelClass,
    Policy,
    Predictions,
    Purge,
    Restoration,
    Verification,
    Withdrawal,
)

UNFINISHED = ("queued", "running")
_CHUNK_BYTES = 1 << 20
_PAUSES = (0.2, 1.0, 3.0)  # seconds before a request is sent again
_LOST = httpx.ReadError, httpx.RemoteProtocolError  # the request may have arrived


class LirfError(Exception):
    """The service refused (RFC 9457): `type` is stable, the text says what to do, `members` has the rest."""

    def __init__(self, status: int, problem: dict[str, Any]) -> None:
        self.status = status
        self.type: str = problem.get("type", "about:blank")
        self.title: str = problem.get("title", "")
        self.detail: str = problem.get("detail", "")
        self.members = problem
        super().__init__(self.detail or self.title or f"HTTP {status}")


class AwaitingApproval(Exception):
    """The model demands a second person: nothing is done until somebody with another key approves."""

    def __init__(self, approval: Approval) -> None:
        self.approval = approval
        super().__init__(
            f"model '{approval['model']}' demands a second person: somebody with another key approves "
            f"'{approval['id']}' until {approval['expires_at'][:16].replace('T', ' ')} UTC."
        )


class Client:
    """One service, one API key. Raises `LirfError` for refusals, `httpx.TransportError` for the network.

    A GET or POST that a broken connection leaves open is sent again, three times; a POST carries an idempotency key, so
    that it is carried out once.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout_seconds: float = 60) -> None:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout_seconds, verify=_certificates())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._http.close()

    def is_ready(self) -> bool:
        """Whether the service answers and can work."""
        try:
            return self._http.get("/v2/health/ready", timeout=5).status_code == 200
        except httpx.TransportError:
            return False

    def register_model(
        self,
        name: str,
        *,
        architecture: dict[str, Any],
        classes: Sequence[str],
        preprocessing: dict[str, Any],
        split: str | None = None,
    ) -> Model:
        """split: one of the architecture's; none: its middle."""
        body: dict[str, Any] = {
            "name": name,
            "architecture": architecture,
            "classes": list(classes),
            "preprocessing": preprocessing,
        }
        if split is not None:
            body["split"] = split
        return cast(Model, self._call("POST", "/v1/models", json=body))

    def put_weights(self, name: str, weights: Path) -> Model:
        """weights: a safetensors file, streamed."""
        return cast(Model, self._upload("PUT", f"/v1/models/{name}/weights", weights))

    def remove_unfinished_model(self, name: str) -> None:
        self._call("DELETE", f"/v1/models/{name}")

    def models(self) -> list[Model]:
        return cast(list[Model], self._all("/v1/models"))

    def model(self, name: str) -> Model:
        return cast(Model, self._call("GET", f"/v1/models/{name}"))

    def classes(self, name: str) -> list[ModelClass]:
        return cast(list[ModelClass], self._call("GET", f"/v1/models/{name}/classes")["classes"])

    def upload_dataset(self, model: str, archive: Path, *, purpose: str = "deposit") -> Dataset:
        """archive: a zip of class folders, streamed. purpose: `deposit` or `evaluation`."""
        return cast(Dataset, self._upload("POST", f"/v1/models/{model}/datasets", archive, params={"purpose": purpose}))

    def discard_dataset(self, model: str, dataset_id: str) -> None:
        """Shreds a data set that no unfinished deposit uses."""
        self._call("DELETE", f"/v1/models/{model}/datasets/{dataset_id}")

    def request_deposit(
        self,
        model: str,
        dataset_id: str,
        *,
        reason: str,
        classes: Sequence[str] | None = None,
        config: dict[str, Any] | None = None,
        keep_dataset: bool = False,
        evidence: bool = True,
    ) -> Deposit:
        """evidence: examine it once it is made, where there is an evaluation set."""
        body: dict[str, Any] = {
            "dataset_id": dataset_id,
            "reason": reason,
            "keep_dataset": keep_dataset,
            "evidence": evidence,
            "config": config or {},
        }
        if classes is not None:
            body["classes"] = list(classes)
        return cast(Deposit, self._call("POST", f"/v1/models/{model}/deposits", json=body))

    def deposit(self, deposit_id: str) -> Deposit:
        return cast(Deposit, self._call("GET", f"/v1/deposits/{deposit_id}"))

    def deposits(self, model: str) -> list[Deposit]:
        return cast(list[Deposit], self._all(f"/v1/models/{model}/deposits"))

    def follow(self, deposit_id: str) -> Iterator[Deposit]:
        """The deposit each time it changes, until it has ended. A broken connection is taken up again."""
        while True:
            try:
                with connect_sse(self._http, "GET", f"/v1/deposits/{deposit_id}/events", timeout=60) as events:
                    if events.response.status_code != 200:
                        events.response.read()
                        _checked(events.response)
                    for event in events.iter_sse():
                        yield cast(Deposit, json.loads(event.data))
                        if event.event == "end":
                            return
            except httpx.TransportError:
                pass
            time.sleep(1)

    def wait(self, deposit_id: str) -> Deposit:
        """The deposit when it has ended."""
        *_, last = self.follow(deposit_id)
        return last

    def cancel(self, deposit_id: str) -> Deposit:
        return cast(Deposit, self._call("POST", f"/v1/deposits/{deposit_id}/cancel"))

    def request_evidence(
        self,
        deposit_id: str,
        *,
        evaluation_set_id: str | None = None,
        dataset_id: str | None = None,
        reference: str | None = None,
    ) -> EvidenceSummary:
        """Examines a deposit. dataset_id: a deposit set of its classes; reference: a model that never saw them."""
        body = {"evaluation_set_id": evaluation_set_id, "dataset_id": dataset_id, "reference": reference}
        return cast(EvidenceSummary, self._call("POST", f"/v1/deposits/{deposit_id}/evidence", json=body))

    def evidence_of(self, deposit_id: str) -> list[EvidenceSummary]:
        """Newest first."""
        return cast(list[EvidenceSummary], self._all(f"/v1/deposits/{deposit_id}/evidence"))

    def evidence(self, evidence_id: str) -> Evidence:
        return cast(Evidence, self._call("GET", f"/v1/evidence/{evidence_id}"))

    def follow_evidence(self, evidence_id: str) -> Iterator[Evidence]:
        """The evidence every second, until it has ended."""
        while True:
            found = self.evidence(evidence_id)
            yield found
            if found["state"] not in UNFINISHED:
                return
            time.sleep(1)

    def certificate(self, evidence_id: str, *, format: str = "pdf") -> bytes:
        """Signed, as `pdf` or `html`; `lirf certificate verify` checks it."""
        path = f"/v1/evidence/{evidence_id}/certificate"
        return _successful(self._http.get(path, params={"format": format})).content

    def certificate_key(self) -> str:
        """The public key that certificates are signed by, as PEM."""
        return _successful(self._http.get("/v1/certificates/key")).text

    def cancel_evidence(self, evidence_id: str) -> EvidenceSummary:
        return cast(EvidenceSummary, self._call("POST", f"/v1/evidence/{evidence_id}/cancel"))

    def withdraw(
        self,
        deposits: Sequence[str],
        *,
        holder: str,
        reason: str,
        visibility: str = "public",
        expires_in_seconds: float | None = None,
        expires_at: str | None = None,
    ) -> Withdrawal:
        """visibility: `public`, or `held` by who presents its `withdrawal_token`. Raises `AwaitingApproval`."""
        body: dict[str, Any] = {"deposits": list(deposits), "holder": holder, "reason": reason}
        body |= {"visibility": visibility}
        body |= {"expires_in_seconds": expires_in_seconds, "expires_at": expires_at}
        return cast(Withdrawal, _done(self._call("POST", "/v1/withdrawals", json=body)))

    def withdrawal_token(self, withdrawal_id: str) -> str:
        """A held withdrawal's token, told this once; it takes the place of one that was issued before."""
        return str(self._call("POST", f"/v1/withdrawals/{withdrawal_id}/token")["token"])

    def renew(
        self, withdrawal_id: str, *, reason: str, expires_in_seconds: float | None = None, expires_at: str | None = None
    ) -> Withdrawal:
        """Without an end it holds until it is revoked."""
        body = {"reason": reason, "expires_in_seconds": expires_in_seconds, "expires_at": expires_at}
        return cast(Withdrawal, self._call("POST", f"/v1/withdrawals/{withdrawal_id}/renewal", json=body))

    def revoke(self, withdrawal_id: str) -> Withdrawal:
        return cast(Withdrawal, self._call("DELETE", f"/v1/withdrawals/{withdrawal_id}"))

    def withdrawals(self, model: str | None = None) -> list[Withdrawal]:
        return cast(list[Withdrawal], self._all("/v1/withdrawals", {"model": model} if model else {}))

    def audit_events(self, *, limit: int | None = None, **filters: str) -> Iterator[AuditEvent]:
        """Newest first; filters: model, action, subject, actor, request_id, since, until (times in ISO 8601)."""
        for number, event in enumerate(self._pages("/v1/audit/events", filters)):
            if number == limit:
                return
            yield cast(AuditEvent, event)

    def audit_export(self, format: str = "jsonl", **filters: str) -> Iterator[str]:
        """Lines, oldest first, as JSON or (`csv`) with a header; filters as for `audit_events`."""
        with self._http.stream("GET", "/v1/audit/events/export", params={"format": format, **filters}) as answer:
            if not answer.is_success:
                answer.read()
                _checked(answer)
            yield from answer.iter_lines()

    def audit_head(self) -> AuditHead:
        """The newest event's number and digest, to be kept outside the service as an anchor."""
        return cast(AuditHead, self._call("GET", "/v1/audit/head"))

    def verify_audit(self, anchor: AuditHead | None = None) -> Verification:
        """Has the service walk the chain of its events; with an anchor, a cut or rewritten tail is found, too."""
        return cast(Verification, self._call("GET", "/v1/audit/verification", params=anchor or {}))

    def restore(self, deposit_id: str, *, reason: str) -> Restoration:
        """The deposit's classes answer from now on, without a withdrawal. Raises `AwaitingApproval`."""
        path = f"/v1/deposits/{deposit_id}/restoration"
        return cast(Restoration, _done(self._call("POST", path, json={"reason": reason})))

    def end_restoration(self, deposit_id: str) -> None:
        """The classes are deposited again; when this has returned, only a withdrawal shows them."""
        self._call("DELETE", f"/v1/deposits/{deposit_id}/restoration")

    def purge(self, deposit_id: str, *, classes: Sequence[str], reason: str) -> Purge:
        """Destroys the deposit module for good. classes: those of the deposit, as a confirmation.

        Raises `AwaitingApproval`.
        """
        body = {"classes": list(classes), "reason": reason}
        return cast(Purge, _done(self._call("POST", f"/v1/deposits/{deposit_id}/purge", json=body)))

    def policy(self, model: str) -> Policy:
        return cast(Policy, self._call("GET", f"/v1/models/{model}/policy"))

    def change_policy(
        self, model: str, *, reason: str, original: str | None = None, needs_second_person: bool | None = None
    ) -> Policy:
        """Changes what is given and keeps the rest. original: `seal` or `destroy`. Raises `AwaitingApproval`."""
        path = f"/v1/models/{model}/policy"
        answer = self._http.get(path)
        _checked(answer)
        given = {"original": original, "needs_second_person": needs_second_person}
        body = {**answer.json(), **{name: value for name, value in given.items() if value is not None}}
        seen = {"If-Match": answer.headers["ETag"]}
        found = _checked(self._http.put(path, json={**body, "reason": reason}, headers=seen))
        return cast(Policy, _done(found))

    def approvals(self, *, model: str | None = None, waiting: bool = False) -> list[Approval]:
        """Requests for approval, newest first; with `waiting`, those alone that nobody has decided on."""
        filters = {"waiting": waiting, **({"model": model} if model else {})}
        return cast(list[Approval], self._all("/v1/approvals", filters))

    def approve(self, approval_id: str) -> Approval:
        """Carries out what somebody else asked for."""
        return cast(Approval, self._call("POST", f"/v1/approvals/{approval_id}/approve"))

    def refuse(self, approval_id: str, *, reason: str) -> Approval:
        """Ends a request without carrying it out; also one's own."""
        return cast(Approval, self._call("POST", f"/v1/approvals/{approval_id}/refuse", json={"reason": reason}))

    def infer(self, model: str, request: dict[str, Any], *, tokens: Sequence[str] = ()) -> dict[str, Any]:
        """An Open Inference Protocol v2 request with JSON tensors. tokens: of held withdrawals."""
        return self._call("POST", f"/v2/models/{model}/infer", json=request, headers=_presented(tokens))

    def predict(self, model: str, image: Path, *, top: int = 5, tokens: Sequence[str] = ()) -> Predictions:
        """tokens: of held withdrawals."""
        options: dict[str, Any] = {"files": {"image": (image.name, image.read_bytes())}, "params": {"top": top}}
        path = f"/v1/models/{model}/predict"
        return cast(Predictions, self._call("POST", path, headers=_presented(tokens), **options))

    def create_key(self, name: str, roles: Sequence[str], *, expires_in_seconds: float | None = None) -> dict[str, Any]:
        """The new key is in `key`; it is told this once."""
        body = {"name": name, "roles": list(roles), "expires_in_seconds": expires_in_seconds}
        return self._call("POST", "/v1/keys", json=body)

    def keys(self) -> list[dict[str, Any]]:
        return self._all("/v1/keys")

    def revoke_key(self, key_id: str) -> None:
        self._call("DELETE", f"/v1/keys/{key_id}")

    def _call(self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
        return _repeated(method, lambda key: self._http.request(method, path, headers=key | (headers or {}), **options))

    def _upload(self, method: str, path: str, file: Path, params: dict[str, str] | None = None) -> dict[str, Any]:
        def send(key: dict[str, str]) -> httpx.Response:
            with file.open("rb") as stream:
                chunks = iter(lambda: stream.read(_CHUNK_BYTES), b"")
                headers = {"Content-Length": str(file.stat().st_size), "Content-Type": "application/octet-stream"}
                endless = httpx.Timeout(60, read=None)
                return self._http.request(
                    method, path, content=chunks, headers=headers | key, params=params, timeout=endless
                )

        return _repeated(method, send)

    def _all(self, path: str, params: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        return list(self._pages(path, params or {}))

    def _pages(self, path: str, params: dict[str, Any]) -> Iterator[dict[str, Any]]:
        cursor: str | None = None
        while True:
            page = self._call("GET", path, params={**params, "limit": 500, **({"cursor": cursor} if cursor else {})})
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return


@cache
def _certificates() -> ssl.SSLContext:
    """Those that httpx trusts; reading them takes longer than a request."""
    return httpx.create_ssl_context()


def _presented(tokens: Sequence[str]) -> dict[str, str]:
    return {"Withdrawal-Token": ",".join(tokens)} if tokens else {}


def _done(answer: dict[str, Any]) -> dict[str, Any]:
    if "act" in answer:
        raise AwaitingApproval(cast(Approval, answer))
    return answer


def _repeated(method: str, send: Callable[[dict[str, str]], httpx.Response]) -> dict[str, Any]:
    """send: takes the headers that make one request of all that are sent."""
    key = {"Idempotency-Key": str(uuid.uuid4())} if method == "POST" else {}
    # A second PUT or DELETE would be refused although the first one did it.
    for pause in _PAUSES if method in ("GET", "POST") else ():
        try:
            return _checked(send(key))
        except _LOST:
            pass
        except LirfError as refused:
            if not refused.type.endswith(":idempotent-answer-missing"):
                raise
        time.sleep(pause)
    return _checked(send(key))


def _checked(response: httpx.Response) -> dict[str, Any]:
    return cast(dict[str, Any], response.json()) if _successful(response).content else {}


def _successful(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    try:
        problem = response.json()
    except ValueError:
        problem = {"title": f"HTTP {response.status_code}", "detail": response.text[:500]}
    raise LirfError(response.status_code, problem)
