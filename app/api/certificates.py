from typing import Annotated

from fastapi import APIRouter, Query, Response

from app.api.attachments import attached
from app.api.bodies import LimitedRoute
from app.api.dependencies import AnyKey, InTurn, ReadingDep, SessionDep, VaultDep
from app.certificates import service
from app.certificates.signatures import Format

router = APIRouter(tags=["evidence"], route_class=LimitedRoute)


@router.get(
    "/v1/evidence/{evidence_id}/certificate",
    dependencies=[InTurn],
    response_class=Response,
    responses={200: {"content": {"application/pdf": {}, "text/html": {}}, "description": "The signed certificate."}},
)
def get_certificate(
    evidence_id: str,
    actor: AnyKey,
    reading: ReadingDep,
    session: SessionDep,
    vault: VaultDep,
    format: Annotated[Format, Query(description="Format of the file.")] = "pdf",
) -> Response:
    """Return finished evidence on one page, with digests, signed by the installation (Ed25519)."""
    return attached(service.issue(reading, session, vault, actor, evidence_id, format), evidence_id, format)


@router.get(
    "/v1/certificates/key",
    response_class=Response,
    responses={200: {"content": {"application/x-pem-file": {}}, "description": "PEM, RFC 8410."}},
)
def get_key(actor: AnyKey, session: SessionDep, vault: VaultDep) -> Response:
    """Return the public key that verifies certificates. Hand it on by another way than the certificates."""
    key = service.public_key(session, vault, actor)
    return Response(key, media_type="application/x-pem-file", headers={"Cache-Control": "no-store"})
