from fastapi import APIRouter, Request
from sqlalchemy.orm import Session

from app.api.bodies import streamed_to_file
from app.api.dependencies import (
    Operator,
    PageQuery,
    ReadingDep,
    SessionDep,
    SettingsDep,
    UploadDecodersDep,
    UploadsDep,
    VaultDep,
)
from app.api.disconnects import stopped_with_client
from app.api.idempotent_route import IdempotentRoute
from app.base.paging import Page
from app.datasets import service
from app.datasets.schemas import Dataset
from app.datasets.service import Purpose
from app.deposits.service import uses_dataset as deposit_uses
from app.evidence.service import uses_dataset as examination_uses
from app.hardenings.service import uses_dataset as hardening_uses
from app.rebases.service import uses_dataset as rebase_uses
from lirf_core.images.decoding import GivenUp

router = APIRouter(prefix="/v1/models/{name}/datasets", tags=["data sets"], route_class=IdempotentRoute)


@router.post(
    "",
    status_code=201,
    openapi_extra={
        "requestBody": {
            "required": True,
            "content": {"application/zip": {"schema": {"type": "string", "format": "binary"}}},
        }
    },
)
async def upload_dataset(
    name: str,
    purpose: Purpose,
    request: Request,
    actor: Operator,
    session: SessionDep,
    vault: VaultDep,
    decoders: UploadDecodersDep,
    uploads: UploadsDep,
    settings: SettingsDep,
) -> Dataset:
    """Upload a zip of class folders with PNG or JPEG images (`curl --data-binary @images.zip`).

    `purpose=deposit`: images of the classes to forget, and no others. `purpose=evaluation`: held-out images of any
    class, to measure accuracy before and after. `purpose=preserved`: 10 to 50 images of each class that stays, if you
    have some; a deposit that names them keeps more accuracy. `purpose=reference`: training images of preserved classes,
    from which an examination trains a network that never saw the deposited ones.
    """
    stop = GivenUp()
    async with (
        streamed_to_file(request, settings.spool, settings.max_archive_bytes) as file,
        stopped_with_client(request),
    ):
        arguments = session, vault, decoders, actor, name, purpose, file, stop
        row = await uploads.run_to_end(actor.key_id, stop, service.upload, *arguments)
    return Dataset.model_validate(row)


@router.get("")
def list_datasets(name: str, actor: Operator, session: ReadingDep, page: PageQuery) -> Page[Dataset]:
    """List a model's data sets, newest first."""
    rows, cursor = service.list_of_model(session, name, page)
    return Page(items=[Dataset.model_validate(row) for row in rows], next_cursor=cursor)


@router.delete("/{dataset_id}", status_code=204)
def discard_dataset(name: str, dataset_id: str, actor: Operator, session: SessionDep, vault: VaultDep) -> None:
    """Shred a data set that no unfinished job uses. Jobs shred the images that they learn from when they end."""
    service.discard(session, vault, actor, name, dataset_id, is_used=_is_used)


def _is_used(session: Session, dataset_id: str) -> bool:
    return any(uses(session, dataset_id) for uses in (deposit_uses, rebase_uses, hardening_uses, examination_uses))
