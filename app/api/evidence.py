from fastapi import APIRouter, BackgroundTasks, Response
from sqlalchemy.orm import Session

from app.api.bodies import LimitedRoute
from app.api.dependencies import AnyKey, DoorbellDep, Examiner, PageQuery, ReadingDep, SessionDep, VaultDep
from app.base.paging import Page
from app.evidence import service
from app.evidence.digests import digest
from app.evidence.jobs import JOBS
from app.evidence.schemas import Evidence, EvidenceCreate, EvidenceProgress, EvidenceSummary
from app.evidence.service import EvidenceRow

router = APIRouter(tags=["evidence"], route_class=LimitedRoute)


def _summary(session: Session, row: EvidenceRow) -> EvidenceSummary:
    own = EvidenceSummary.model_fields.keys() - {"deposit", "model", "reference", "progress"}
    return EvidenceSummary(
        deposit=row.deposit_id,
        model=service.model_of(session, row).name,
        reference=service.reference_name(session, row),
        progress=EvidenceProgress(**row.progress),
        **{name: getattr(row, name) for name in own},
    )


@router.post("/v1/deposits/{deposit_id}/evidence", status_code=202)
def request_evidence(
    deposit_id: str,
    body: EvidenceCreate,
    actor: Examiner,
    session: SessionDep,
    doorbell: DoorbellDep,
    tasks: BackgroundTasks,
    response: Response,
) -> EvidenceSummary:
    """Examine a deposit again: a worker attacks what is left of its classes. Follow `Location`."""
    row = service.request(session, actor, deposit_id, body)
    tasks.add_task(doorbell.ring, JOBS.task, row.id)
    response.headers["Location"] = f"/v1/evidence/{row.id}"
    with session.begin():
        return _summary(session, row)


@router.get("/v1/deposits/{deposit_id}/evidence")
def list_evidence(deposit_id: str, actor: AnyKey, session: ReadingDep, page: PageQuery) -> Page[EvidenceSummary]:
    """List the evidence of a deposit, newest first. `GET /v1/evidence/{id}` returns the figures."""
    rows, cursor = service.list_of_deposit(session, deposit_id, page)
    return Page(items=[_summary(session, row) for row in rows], next_cursor=cursor)


@router.get("/v1/evidence/{evidence_id}")
def get_evidence(evidence_id: str, actor: AnyKey, session: ReadingDep) -> Evidence:
    """State, progress and, once it has finished, every figure with its uncertainty and what a good figure is."""
    row = service.get(session, evidence_id)
    known = _summary(session, row).model_dump()
    return Evidence(**known, digest=digest(row.found) if row.found else None, found=row.found)


@router.post("/v1/evidence/{evidence_id}/cancel")
def cancel_evidence(evidence_id: str, actor: Examiner, session: SessionDep, vault: VaultDep) -> EvidenceSummary:
    """Stop an examination that has not ended."""
    row = service.cancel(session, vault, actor, evidence_id)
    with session.begin():
        return _summary(session, row)
