"""Checkpoints of unfinished jobs. They lie in the vault like everything else and go when their job ends.

Every function runs in the caller's transaction. Those that delete return vault names to remove after it.
"""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlalchemy.orm import Session

from app.jobs.tables import CheckpointRow
from app.vault import service as vaults
from app.vault.service import StoredObject


def of_job(session: Session, job_id: str) -> dict[str, StoredObject]:
    """The newest checkpoint of each part of the job, by part."""
    rows = session.scalars(sa.select(CheckpointRow).where(CheckpointRow.job_id == job_id))
    return {row.part: vaults.stored_object(session, row.object_id) for row in rows}


def replace(session: Session, job_id: str, part: str, checkpoint: StoredObject) -> list[str]:
    """Keep a part's new checkpoint in place of its old one."""
    garbage = _delete(session, CheckpointRow.job_id == job_id, CheckpointRow.part == part)
    object_id = vaults.record(session, checkpoint)
    session.add(CheckpointRow(job_id=job_id, part=part, object_id=object_id))
    return garbage


def delete(session: Session, job_ids: Sequence[str] | sa.Select[str]) -> list[str]:
    """Delete every checkpoint of these jobs."""
    return _delete(session, CheckpointRow.job_id.in_(job_ids))


def delete_part(session: Session, part: str) -> list[str]:
    """Delete the checkpoints of this part in all jobs."""
    return _delete(session, CheckpointRow.part == part)


def _delete(session: Session, *conditions: sa.ColumnElement[bool]) -> list[str]:
    # RETURNING, so that of two transactions only one gets each name: not everything that ends a job locks the model.
    deletion = sa.delete(CheckpointRow).where(*conditions).returning(CheckpointRow.object_id)
    object_ids = session.scalars(deletion, execution_options={"synchronize_session": "fetch"}).all()
    return [vaults.forget(session, object_id) for object_id in object_ids]
