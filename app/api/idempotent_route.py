"""Routes on which a repeated request with the same idempotency key is carried out only once."""

import hashlib
import json
import logging
from collections.abc import Callable, Coroutine
from typing import Any, ClassVar

from fastapi import Request, Response
from fastapi.dependencies.models import Dependant
from fastapi.routing import APIRoute
from starlette.concurrency import run_in_threadpool

from app.access.service import Actor, Role, demand
from app.api.authentication import authenticate
from app.base.errors import Problem
from app.idempotency import service as idempotency
from app.idempotency.service import AnswerMissing, Claim, KeyReused
from app.vault.service import Vault, VaultDamaged

log = logging.getLogger(__name__)
IDEMPOTENCY_KEY = "Idempotency-Key"
ROLES = "roles"  # attribute of the dependency that demands one of these roles
_KEPT_HEADERS = ("content-type", "location")


class _Replayed(Exception):
    """The request was carried out before, with this answer."""

    def __init__(self, answer: Response) -> None:
        self.answer = answer


class IdempotentRoute(APIRoute):
    """A POST with an `Idempotency-Key` is carried out once and gets the same answer each time it is sent.

    Refusals are not stored: a refused request has changed nothing and may be sent again with the same key.
    """

    holds_body: ClassVar = False

    def __init__(self, path: str, endpoint: Callable[..., Any], **options: Any) -> None:
        if "POST" in (options.get("methods") or ()):
            described = {
                "name": IDEMPOTENCY_KEY,
                "in": "header",
                "description": "For 24 hours, a request that changed something and is sent again with the same key is "
                "not carried out again. It gets its first answer.",
                "schema": {
                    "type": "string",
                    "pattern": "^[!-~]{1,255}$",
                    "examples": ["8e03978e-40d5-43e8-bc93-6894a57f9324"],
                },
            }
            options["openapi_extra"] = {**(options.get("openapi_extra") or {}), "parameters": [described]}
        super().__init__(path, endpoint, **options)

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()
        self.roles = _roles_in(self.dependant)

        async def once(request: Request) -> Response:
            key = request.headers.get(IDEMPOTENCY_KEY)
            if key is None or request.method != "POST":
                return await handler(request)
            actor = await self.admitted(request)
            request.state.claim = claim = Claim(actor.key_id, key)
            try:
                if self.holds_body:
                    digest = await run_in_threadpool(hashlib.sha256, await request.body())
                    await demand_new(request, claim, digest.hexdigest())
                response = await handler(request)
            except _Replayed as replay:
                return replay.answer
            except KeyReused:
                raise
            except Problem:
                # The conflict may be with the same request, sent at the same time.
                if claim.request_digest and (answer := await run_in_threadpool(_answered_before, request, claim)):
                    return answer
                raise
            if claim.is_carried_out:
                try:
                    await run_in_threadpool(_keep, request, claim, response)
                except Exception:  # the change is made; a repetition gets `AnswerMissing`
                    log.exception("the answer to a request with an idempotency key could not be stored")
            return response

        return once

    async def admitted(self, request: Request) -> Actor:
        """The actor, who has one of the route's roles now: a stored answer is only for those who may still ask.

        Raises `Forbidden` and the errors of `authenticate`.
        """
        actor = await authenticate(request)
        if self.roles:
            demand(actor, *self.roles)
        return actor


def _roles_in(dependant: Dependant) -> tuple[Role, ...]:
    """The roles of which the route demands one; none if any key may ask."""
    roles = (getattr(dependency.call, ROLES, None) for dependency in dependant.dependencies)
    return next((each for each in roles if each), ())


def claim_of(request: Request) -> Claim | None:
    """The claim of a request with an idempotency key; None if it has no key."""
    claim: Claim | None = getattr(request.state, "claim", None)
    return claim


async def demand_new(request: Request, claim: Claim, body_digest: str) -> None:
    """Raises `_Replayed` when the claim's request was carried out before."""
    url = request.url
    signature = json.dumps([request.method, url.path, url.query, body_digest])
    claim.request_digest = hashlib.sha256(signature.encode()).hexdigest()
    if answer := await run_in_threadpool(_answered_before, request, claim):
        raise _Replayed(answer)


def _answered_before(request: Request, claim: Claim) -> Response | None:
    vault: Vault = request.state.vault
    with request.state.database.reading() as session:
        sealed = idempotency.find(session, claim)
    if sealed is None:
        return None
    try:
        answer = vault.unseal(sealed, _associated(claim))
    except VaultDamaged as damage:
        raise AnswerMissing(
            "The change is made, but its stored answer no longer opens. Look at the resource."
        ) from damage
    head, _, body = answer.partition(b"\n")
    start = json.loads(head)
    return Response(body, start["status"], {**start["headers"], "Idempotent-Replayed": "true"})


def _keep(request: Request, claim: Claim, response: Response) -> None:
    vault: Vault = request.state.vault
    headers = {name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers}
    head = json.dumps({"status": response.status_code, "headers": headers}).encode()
    sealed = vault.seal(head + b"\n" + bytes(response.body), _associated(claim))
    with request.state.database.session() as session:
        idempotency.store_answer(session, claim, sealed)


def _associated(claim: Claim) -> bytes:
    return json.dumps(["answer", claim.api_key_id, claim.key]).encode()
