"""The client: one method for each HTTP call."""

import json
import re
import ssl
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

import httpx
from httpx_sse import connect_sse

from lirf_client.errors import AwaitingApproval, LirfError, NotSendable
from lirf_client.types import (
    Approval,
    AuditEvent,
    AuditHead,
    Base,
    Dataset,
    Deposit,
    Evidence,
    EvidenceSummary,
    Hardening,
    Measurement,
    Model,
    ModelClass,
    Policy,
    Predictions,
    Purge,
    Rebase,
    Removal,
    Restoration,
    Verification,
    Withdrawal,
)

UNFINISHED = ("queued", "running")
_CHUNK_BYTES = 1 << 20
_PAUSES = (0.2, 1.0, 3.0)  # seconds before a request is sent again
MAX_PORT = 65535
_PART = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VISIBLE = re.compile("[!-~]+")  # what a key or a token consists of
_LOST = httpx.ReadError, httpx.RemoteProtocolError  # the request may have arrived nevertheless


class Client:
    """A connection to one service with one API key.

    Raises `LirfError` if the service refuses, `httpx.TransportError` if the network fails, and `NotSendable` if a name
    or an id would lead to another route. If the connection breaks before an answer, a GET or POST is sent again, up to
    three times. Each POST carries an idempotency key, so the service carries it out only once.
    """

    def __init__(self, url: str, key: str | None = None, *, timeout_seconds: float = 60) -> None:
        """Raises `NotSendable`, which does not show the key, if the address or the key cannot be right."""
        headers = {"Authorization": f"Bearer {_header_value('API key', key)}"} if key else {}
        self._http = httpx.Client(
            base_url=_address(url), headers=headers, timeout=timeout_seconds, verify=_certificates()
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections. `with Client(...)` does it by itself."""
        self._http.close()

    def is_ready(self) -> bool:
        """Return whether the service answers and is ready for work."""
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
        """Describe a new model. `put_weights` must follow.

        split: the last module of the lower part; default: where the architecture forgets best.
        preprocessing: `height`, `width`, `mean`, `std`, and perhaps `exif_orientation`, `apply` (default) or `ignore`.
        """
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
        """Upload the weights of a registered model. weights: a safetensors file, which is streamed."""
        return cast(Model, self._upload("PUT", f"/v1/models/{_part(name)}/weights", weights))

    def remove_unfinished_model(self, name: str) -> None:
        """Remove a model that has no weights yet."""
        self._call("DELETE", f"/v1/models/{_part(name)}")

    def remove_model(self, name: str, *, confirm: str, reason: str) -> Removal:
        """Remove a model for good, with all that it has in the vault. confirm: its name again.

        Raises `AwaitingApproval`.
        """
        params = {"confirm": confirm, "reason": reason}
        return cast(Removal, _done(self._call("DELETE", f"/v1/models/{_part(name)}", params=params)))

    def models(self) -> list[Model]:
        """Return all models."""
        return cast(list[Model], self._all("/v1/models"))

    def model(self, name: str) -> Model:
        """Return one model."""
        return cast(Model, self._call("GET", f"/v1/models/{_part(name)}"))

    def classes(self, name: str) -> list[ModelClass]:
        """Return a model's classes, in the order of its outputs."""
        return cast(list[ModelClass], self._call("GET", f"/v1/models/{_part(name)}/classes")["classes"])

    def upload_dataset(self, model: str, archive: Path, *, purpose: str = "deposit") -> Dataset:
        """Upload images. archive: a zip with a folder for each class, which is streamed.

        purpose: `deposit`, `evaluation`, `preserved` or `reference`.
        """
        return cast(
            Dataset, self._upload("POST", f"/v1/models/{_part(model)}/datasets", archive, params={"purpose": purpose})
        )

    def discard_dataset(self, model: str, dataset_id: str) -> None:
        """Shred a data set that no unfinished deposit uses."""
        self._call("DELETE", f"/v1/models/{_part(model)}/datasets/{_part(dataset_id)}")

    def request_deposit(
        self,
        model: str,
        dataset_id: str,
        *,
        reason: str,
        kind: str = "classes",
        classes: Sequence[str] | None = None,
        groups: Sequence[Sequence[str]] | None = None,
        preserved_set_id: str | None = None,
        config: dict[str, Any] | None = None,
        keep_dataset: bool = False,
        keep_preserved_set: bool = False,
        evidence: bool = True,
    ) -> Deposit:
        """Request that the classes of a data set be forgotten and deposited.

        kind: `classes`, or `samples`: forget only that the model was trained on these images. classes: those of the
        data set, as a cross-check. groups: make a deposit of each of these groups of classes; the result is the first
        one, and its `groups` name the others. preserved_set_id: images of classes that stay, if there are some.
        config: settings that differ from the defaults. keep_dataset, keep_preserved_set: otherwise the data sets are
        shredded when the deposit ends. evidence: gather evidence afterwards, if there is an evaluation set. Raises
        `AwaitingApproval`.
        """
        body: dict[str, Any] = {
            "kind": kind,
            "dataset_id": dataset_id,
            "preserved_set_id": preserved_set_id,
            "reason": reason,
            "keep_dataset": keep_dataset,
            "keep_preserved_set": keep_preserved_set,
            "evidence": evidence,
            "config": config or {},
        }
        if classes is not None:
            body["classes"] = list(classes)
        if groups is not None:
            body["groups"] = [list(group) for group in groups]
        return cast(Deposit, _done(self._call("POST", f"/v1/models/{_part(model)}/deposits", json=body)))

    def deposit(self, deposit_id: str) -> Deposit:
        """Return one deposit."""
        return cast(Deposit, self._call("GET", f"/v1/deposits/{_part(deposit_id)}"))

    def deposits(self, model: str) -> list[Deposit]:
        """Return a model's deposits, newest first."""
        return cast(list[Deposit], self._all(f"/v1/models/{_part(model)}/deposits"))

    def follow(self, deposit_id: str) -> Iterator[Deposit]:
        """Yield the deposit each time it changes, until it has ended. Reconnects if the connection breaks."""
        was_connected = False
        while True:
            try:
                with connect_sse(self._http, "GET", f"/v1/deposits/{_part(deposit_id)}/events", timeout=60) as events:
                    if events.response.status_code != 200:
                        events.response.read()
                        _checked(events.response)
                    was_connected = True
                    for event in events.iter_sse():
                        yield cast(Deposit, json.loads(event.data))
                        if event.event == "end":
                            return
            except httpx.TransportError:
                if not was_connected:
                    raise
            time.sleep(1)

    def wait(self, deposit_id: str) -> Deposit:
        """Wait until the deposit has ended, and return it."""
        *_, last = self.follow(deposit_id)
        return last

    def cancel(self, deposit_id: str) -> Deposit:
        """Cancel a queued or running deposit. The model is unchanged."""
        return cast(Deposit, self._call("POST", f"/v1/deposits/{_part(deposit_id)}/cancel"))

    def request_evidence(
        self,
        deposit_id: str,
        *,
        evaluation_set_id: str | None = None,
        dataset_id: str | None = None,
        reference: str | None = None,
        train_reference_on: str | None = None,
        keep_dataset: bool = False,
        attackers: str = "small",
    ) -> EvidenceSummary:
        """Request new evidence of a deposit.

        evaluation_set_id: held-out images; default: the deposit's, or the model's newest. dataset_id: a deposit set of
        the classes. reference: a model that never saw them. train_reference_on: a data set of preserved classes
        (`purpose=reference`) to train one from; it is shredded afterwards, unless `keep_dataset`.
        attackers: `small` or `full`, which takes much longer.
        """
        images = {"train_on": train_reference_on, "keep_dataset": keep_dataset} if train_reference_on else None
        body = {
            "evaluation_set_id": evaluation_set_id,
            "dataset_id": dataset_id,
            "reference": images or reference,
            "attackers": attackers,
        }
        return cast(EvidenceSummary, self._call("POST", f"/v1/deposits/{_part(deposit_id)}/evidence", json=body))

    def evidence_of(self, deposit_id: str) -> list[EvidenceSummary]:
        """Return every examination of a deposit, newest first, without the figures."""
        return cast(list[EvidenceSummary], self._all(f"/v1/deposits/{_part(deposit_id)}/evidence"))

    def evidence(self, evidence_id: str) -> Evidence:
        """Return the evidence with its figures."""
        return cast(Evidence, self._call("GET", f"/v1/evidence/{_part(evidence_id)}"))

    def follow_evidence(self, evidence_id: str) -> Iterator[Evidence]:
        """Yield the evidence every second, until it has ended."""
        while True:
            evidence = self.evidence(evidence_id)
            yield evidence
            if evidence["state"] not in UNFINISHED:
                return
            time.sleep(1)

    def certificate(self, evidence_id: str, *, format: str = "pdf") -> bytes:
        """Return the signed certificate. format: `pdf` or `html`. `lirf certificate verify` checks it."""
        path = f"/v1/evidence/{_part(evidence_id)}/certificate"
        return _successful(self._http.get(path, params={"format": format})).content

    def certificate_key(self) -> str:
        """Return the public key that verifies certificates, as PEM."""
        return _successful(self._http.get("/v1/certificates/key")).text

    def cancel_evidence(self, evidence_id: str) -> EvidenceSummary:
        """Cancel an examination that is queued or running."""
        return cast(EvidenceSummary, self._call("POST", f"/v1/evidence/{_part(evidence_id)}/cancel"))

    def request_rebase(
        self,
        model: str,
        *,
        reason: str,
        dataset_id: str | None = None,
        evaluation_set_id: str | None = None,
        keep_dataset: bool = False,
        config: dict[str, Any] | None = None,
    ) -> Rebase:
        """Request that the target and all outstanding modules be made anew, from the original network.

        dataset_id: images of the classes of all outstanding deposits; default: the deposit sets, if all were kept.
        evaluation_set_id: held-out images; default: the model's newest. keep_dataset: do not shred the images when the
        rebase ends. config: settings that differ from a deposit's defaults. Raises `AwaitingApproval`.
        """
        body = {
            "dataset_id": dataset_id,
            "evaluation_set_id": evaluation_set_id,
            "keep_dataset": keep_dataset,
            "reason": reason,
            "config": config or {},
        }
        return cast(Rebase, _done(self._call("POST", f"/v1/models/{_part(model)}/rebases", json=body)))

    def rebases(self, model: str) -> list[Rebase]:
        """Return a model's rebases, newest first."""
        return cast(list[Rebase], self._all(f"/v1/models/{_part(model)}/rebases"))

    def rebase(self, rebase_id: str) -> Rebase:
        """Return one rebase: its state, its progress and the deposits whose modules it made."""
        return cast(Rebase, self._call("GET", f"/v1/rebases/{_part(rebase_id)}"))

    def follow_rebase(self, rebase_id: str) -> Iterator[Rebase]:
        """Yield the rebase every second, until it has ended."""
        while True:
            rebase = self.rebase(rebase_id)
            yield rebase
            if rebase["state"] not in UNFINISHED:
                return
            time.sleep(1)

    def cancel_rebase(self, rebase_id: str) -> Rebase:
        """Cancel a rebase that is queued or running. The model stays as it was."""
        return cast(Rebase, self._call("POST", f"/v1/rebases/{_part(rebase_id)}/cancel"))

    def request_hardening(
        self,
        model: str,
        *,
        dataset_id: str | None = None,
        evaluation_set_id: str | None = None,
        keep_dataset: bool = False,
        config: dict[str, Any] | None = None,
    ) -> Hardening:
        """Request that the target in service be hardened.

        dataset_id: images of deposited classes; default: the newest deposit's, if it was kept. evaluation_set_id:
        held-out images; default: the deposit's, or the model's newest. keep_dataset: do not shred the images when the
        hardening ends.
        """
        body = {
            "dataset_id": dataset_id,
            "evaluation_set_id": evaluation_set_id,
            "keep_dataset": keep_dataset,
            "config": config or {},
        }
        return cast(Hardening, self._call("POST", f"/v1/models/{_part(model)}/hardenings", json=body))

    def hardenings(self, model: str) -> list[Hardening]:
        """Return a model's hardenings, newest first."""
        return cast(list[Hardening], self._all(f"/v1/models/{_part(model)}/hardenings"))

    def hardening(self, hardening_id: str) -> Hardening:
        """Return one hardening: its state, its figures, and whether its network is served."""
        return cast(Hardening, self._call("GET", f"/v1/hardenings/{_part(hardening_id)}"))

    def follow_hardening(self, hardening_id: str) -> Iterator[Hardening]:
        """Yield the hardening every second, until it has ended."""
        while True:
            hardening = self.hardening(hardening_id)
            yield hardening
            if hardening["state"] not in UNFINISHED:
                return
            time.sleep(1)

    def cancel_hardening(self, hardening_id: str) -> Hardening:
        """Cancel a hardening that is queued or running. The working target stays in service."""
        return cast(Hardening, self._call("POST", f"/v1/hardenings/{_part(hardening_id)}/cancel"))

    def make_base(self, model: str, *, confirm: str, reason: str) -> Base:
        """Make the hardened network the model's base, and destroy everything older for good.

        confirm: the model's name again. Raises `AwaitingApproval`.
        """
        body = {"confirm": confirm, "reason": reason}
        return cast(Base, _done(self._call("POST", f"/v1/models/{_part(model)}/base", json=body)))

    def request_measurement(
        self, model: str, *, deposits: Sequence[str] | None = None, evaluation_set_id: str | None = None
    ) -> Measurement:
        """Request that the model be measured as it is now, with these deposits withdrawn together.

        deposits: ids; default: each outstanding one alone, and all together. evaluation_set_id: held-out images;
        default: the model's newest.
        """
        body = {"deposits": list(deposits) if deposits else None, "evaluation_set_id": evaluation_set_id}
        return cast(Measurement, self._call("POST", f"/v1/models/{_part(model)}/measurements", json=body))

    def measurements(self, model: str) -> list[Measurement]:
        """Return a model's measurements, newest first. Each publication of a deposit adds one."""
        return cast(list[Measurement], self._all(f"/v1/models/{_part(model)}/measurements"))

    def measurement(self, measurement_id: str) -> Measurement:
        """Return one measurement with its figures."""
        return cast(Measurement, self._call("GET", f"/v1/measurements/{_part(measurement_id)}"))

    def follow_measurement(self, measurement_id: str) -> Iterator[Measurement]:
        """Yield the measurement every second, until it has ended."""
        while True:
            measurement = self.measurement(measurement_id)
            yield measurement
            if measurement["state"] not in UNFINISHED:
                return
            time.sleep(1)

    def cancel_measurement(self, measurement_id: str) -> Measurement:
        """Cancel a measurement that is queued or running."""
        return cast(Measurement, self._call("POST", f"/v1/measurements/{_part(measurement_id)}/cancel"))

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
        """Make deposited classes answer again, until an end or until `revoke`.

        visibility: `public`, or `held`: only for requests that present the `withdrawal_token`. Raises
        `AwaitingApproval`.
        """
        body: dict[str, Any] = {"deposits": list(deposits), "holder": holder, "reason": reason}
        body |= {"visibility": visibility}
        body |= {"expires_in_seconds": expires_in_seconds, "expires_at": expires_at}
        return cast(Withdrawal, _done(self._call("POST", "/v1/withdrawals", json=body)))

    def withdrawal_token(self, withdrawal_id: str) -> str:
        """Issue the token of a held withdrawal. It is returned only once, and replaces an earlier token."""
        return str(self._call("POST", f"/v1/withdrawals/{_part(withdrawal_id)}/token")["token"])

    def renew(
        self, withdrawal_id: str, *, reason: str, expires_in_seconds: float | None = None, expires_at: str | None = None
    ) -> Withdrawal:
        """Change when a withdrawal ends. Without an end it lasts until it is revoked."""
        body = {"reason": reason, "expires_in_seconds": expires_in_seconds, "expires_at": expires_at}
        return cast(Withdrawal, self._call("POST", f"/v1/withdrawals/{_part(withdrawal_id)}/renewal", json=body))

    def revoke(self, withdrawal_id: str) -> Withdrawal:
        """End a withdrawal at once."""
        return cast(Withdrawal, self._call("DELETE", f"/v1/withdrawals/{_part(withdrawal_id)}"))

    def withdrawals(self, model: str | None = None) -> list[Withdrawal]:
        """Return all withdrawals, or those of one model, newest first."""
        return cast(list[Withdrawal], self._all("/v1/withdrawals", {"model": model} if model else {}))

    def audit_events(self, *, limit: int | None = None, **filters: str) -> Iterator[AuditEvent]:
        """Yield events of the audit log, newest first.

        filters: model, action, subject, actor, actor_id, request_id, since, until (times in ISO 8601).
        """
        for number, event in enumerate(self._pages("/v1/audit/events", filters)):
            if number == limit:
                return
            yield cast(AuditEvent, event)

    def audit_export(self, format: str = "jsonl", **filters: str) -> Iterator[str]:
        """Yield events as lines of `jsonl`, or of `csv` with a header, oldest first. Filters: see `audit_events`."""
        with self._http.stream("GET", "/v1/audit/events/export", params={"format": format, **filters}) as answer:
            if not answer.is_success:
                answer.read()
                _checked(answer)
            yield from answer.iter_lines()

    def audit_head(self, anchor: AuditHead | None = None) -> AuditHead:
        """Return the newest event's number and digest. Keep it outside the service, as an anchor.

        With the last anchor, the service refuses if the newest event does not continue that anchor's chain.
        """
        return cast(AuditHead, self._call("GET", "/v1/audit/head", params=anchor or {}))

    def verify_audit(self, anchor: AuditHead | None = None, *, anchors: Sequence[AuditHead] = ()) -> Verification:
        """Let the service verify its chain of events. With anchors it also detects a cut or rewritten tail.

        anchors: at most 10,000, in place of `anchor`.
        """
        if anchors:
            body = {"anchors": list(anchors)}
            return cast(Verification, self._call("POST", "/v1/audit/verification", json=body))
        return cast(Verification, self._call("GET", "/v1/audit/verification", params=anchor or {}))

    def restore(self, deposit_id: str, *, reason: str) -> Restoration:
        """Make the deposit's classes answer again without a withdrawal. Raises `AwaitingApproval`."""
        path = f"/v1/deposits/{_part(deposit_id)}/restoration"
        return cast(Restoration, _done(self._call("POST", path, json={"reason": reason})))

    def end_restoration(self, deposit_id: str) -> None:
        """End a restoration. When this returns, the classes answer only in a withdrawal."""
        self._call("DELETE", f"/v1/deposits/{_part(deposit_id)}/restoration")

    def purge(self, deposit_id: str, *, classes: Sequence[str], reason: str) -> Purge:
        """Destroy the deposit module for good. classes: those of the deposit, as a confirmation.

        Raises `AwaitingApproval`.
        """
        body = {"classes": list(classes), "reason": reason}
        return cast(Purge, _done(self._call("POST", f"/v1/deposits/{_part(deposit_id)}/purge", json=body)))

    def policy(self, model: str) -> Policy:
        """Return a model's policy."""
        return cast(Policy, self._call("GET", f"/v1/models/{_part(model)}/policy"))

    def change_policy(
        self,
        model: str,
        *,
        reason: str,
        original: str | None = None,
        needs_second_person: bool | None = None,
        max_preserved_loss: float | None = None,
        max_module_loss: float | None = None,
        max_total_loss: float | None = None,
        hardening: str | None = None,
        scrub: str | None = None,
    ) -> Policy:
        """Change the given parts of a model's policy. original: `seal` or `destroy`. Raises `AwaitingApproval`.

        The bounds are percentage points of accuracy, from 0 to 100: what preserved classes may lose by one deposit,
        what the classes of a deposit, new or older, may lose when it is withdrawn, and what classes may lose since the
        original. hardening: `served`, `export` or `none`. scrub: `purge` or `deposit`.
        """
        path = f"/v1/models/{_part(model)}/policy"
        answer = self._http.get(path)
        _checked(answer)
        parts = {
            "original": original,
            "needs_second_person": needs_second_person,
            "max_preserved_loss": max_preserved_loss,
            "max_module_loss": max_module_loss,
            "max_total_loss": max_total_loss,
            "hardening": hardening,
            "scrub": scrub,
        }
        body = {**answer.json(), **{name: value for name, value in parts.items() if value is not None}}
        headers = {"If-Match": answer.headers["ETag"]}
        policy = _checked(self._http.put(path, json={**body, "reason": reason}, headers=headers))
        return cast(Policy, _done(policy))

    def approvals(self, *, model: str | None = None, waiting: bool = False) -> list[Approval]:
        """Return requests for approval, newest first; with `waiting`, only those that are not decided yet."""
        filters = {"waiting": waiting, **({"model": model} if model else {})}
        return cast(list[Approval], self._all("/v1/approvals", filters))

    def approve(self, approval_id: str) -> Approval:
        """Approve a request of somebody else. The service carries it out."""
        return cast(Approval, self._call("POST", f"/v1/approvals/{_part(approval_id)}/approve"))

    def refuse(self, approval_id: str, *, reason: str) -> Approval:
        """Refuse a request, which may be your own. It is not carried out."""
        return cast(Approval, self._call("POST", f"/v1/approvals/{_part(approval_id)}/refuse", json={"reason": reason}))

    def infer(self, model: str, request: dict[str, Any], *, tokens: Sequence[str] = ()) -> dict[str, Any]:
        """Send an Open Inference Protocol v2 request with JSON tensors. tokens: of held withdrawals."""
        return self._call("POST", f"/v2/models/{_part(model)}/infer", json=request, headers=_token_header(tokens))

    def predict(self, model: str, image: Path, *, top: int = 5, tokens: Sequence[str] = ()) -> Predictions:
        """Return the `top` most probable classes of a PNG or JPEG file. tokens: of held withdrawals."""
        options: dict[str, Any] = {"files": {"image": (image.name, image.read_bytes())}, "params": {"top": top}}
        path = f"/v1/models/{_part(model)}/predict"
        return cast(Predictions, self._call("POST", path, headers=_token_header(tokens), **options))

    def create_key(
        self,
        name: str,
        roles: Sequence[str],
        *,
        expires_in_seconds: float | None = None,
        models: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """Create an API key. It is in the answer's `key`, and is returned only once.

        models: patterns of the names of the models that it is bound to, such as `eu-*`; None for all models.
        """
        body = {"name": name, "roles": list(roles), "expires_in_seconds": expires_in_seconds}
        if models is not None:
            body["models"] = list(models)
        return self._call("POST", "/v1/keys", json=body)

    def keys(self) -> list[dict[str, Any]]:
        """Return all API keys, without their secrets."""
        return self._all("/v1/keys")

    def revoke_key(self, key_id: str) -> None:
        """Revoke an API key. The service refuses it from now on."""
        self._call("DELETE", f"/v1/keys/{_part(key_id)}")

    def _call(self, method: str, path: str, *, headers: dict[str, str] | None = None, **options: Any) -> dict[str, Any]:
        return _repeated(method, lambda key: self._http.request(method, path, headers=key | (headers or {}), **options))

    def _upload(self, method: str, path: str, file: Path, params: dict[str, str] | None = None) -> dict[str, Any]:
        def send(key: dict[str, str]) -> httpx.Response:
            with file.open("rb") as stream:
                chunks = iter(lambda: stream.read(_CHUNK_BYTES), b"")
                headers = {"Content-Length": str(file.stat().st_size), "Content-Type": "application/octet-stream"}
                timeout = httpx.Timeout(60, read=None)  # checking a large upload takes long
                return self._http.request(
                    method, path, content=chunks, headers=headers | key, params=params, timeout=timeout
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
    """Return the certificates that httpx trusts. Cached, because reading them takes longer than a request."""
    return httpx.create_ssl_context()


def _address(url: str) -> httpx.URL:
    """Raises `NotSendable`, which does not show a password."""
    try:
        address = httpx.URL(url)
    except (httpx.InvalidURL, ValueError):
        address = httpx.URL()
    if address.userinfo or "@" in url:
        raise NotSendable("The service's address must not contain a user name or password. The API key says who asks.")
    if address.scheme not in ("http", "https") or not address.host or (address.port or 0) > MAX_PORT:
        raise NotSendable(f"'{url}' is not the address of a service. Write it like http://127.0.0.1:8000.")
    return address


def _part(name: str) -> str:
    """A name or id as one part of a path. Raises `NotSendable` if it could lead to another route."""
    if not _PART.fullmatch(name):
        raise NotSendable(
            f"{name!r} is neither a name nor an id. These have only letters, digits, '.', '_' and '-', and begin with "
            "a letter or a digit."
        )
    return name


def _header_value(name: str, secret: str) -> str:
    """Raises `NotSendable`, which does not show the secret, if no header can hold it."""
    value = secret.strip()
    if not _VISIBLE.fullmatch(value):
        raise NotSendable(
            f"The {name} contains a space, a line break or another character that no {name} has. Copy it again."
        )
    return value


def _token_header(tokens: Sequence[str]) -> dict[str, str]:
    return (
        {"Withdrawal-Token": ",".join(_header_value("withdrawal token", token) for token in tokens)} if tokens else {}
    )


def _done(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the answer. Raises `AwaitingApproval` if it is a request for approval."""
    if "act" in answer:
        raise AwaitingApproval(cast(Approval, answer))
    return answer


def _repeated(method: str, send: Callable[[dict[str, str]], httpx.Response]) -> dict[str, Any]:
    """Call `send` until an answer arrives. send: takes headers that mark each repetition as the same request."""
    key = {"Idempotency-Key": str(uuid.uuid4())} if method == "POST" else {}
    # A repeated PUT or DELETE could be refused although the first one succeeded.
    for pause in _PAUSES if method in ("GET", "POST") else ():
        try:
            return _checked(send(key))
        except _LOST:
            pass
        except LirfError as error:
            if not error.type.endswith(":idempotent-answer-missing"):
                raise
        time.sleep(pause)
    return _checked(send(key))


def _checked(response: httpx.Response) -> dict[str, Any]:
    """Return the answer's JSON, {} if it is empty. Raises `LirfError`."""
    if not _successful(response).content:
        return {}
    try:
        answer = response.json()
    except ValueError:
        answer = None
    if not isinstance(answer, dict):
        raise LirfError(response.status_code, {"title": "This is no LIRF service", "detail": _foreign(response)})
    return answer


def _successful(response: httpx.Response) -> httpx.Response:
    if response.is_success:
        return response
    try:
        problem = response.json()
    except ValueError:
        problem = None
    if not isinstance(problem, dict):
        problem = {"title": f"HTTP {response.status_code}", "detail": _foreign(response)}
    raise LirfError(response.status_code, problem)


def _foreign(response: httpx.Response) -> str:
    """What to do about an answer that is not the service's own."""
    answer = f"HTTP {response.status_code} {response.reason_phrase}".strip()
    if target := response.headers.get("Location"):
        answer += f", which leads to {target[:200]}"
    return f"The answer ({answer}) is not from a LIRF service. Check its address, and the proxy in front of it."
