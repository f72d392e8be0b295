"""All tables, for migrations. Importing this module fills `metadata`."""

from app.access import tables as _access
from app.audit import tables as _audit
from app.base.database import Base
from app.certificates import tables as _certificates
from app.datasets import tables as _datasets
from app.deposits import tables as _deposits
from app.evidence import tables as _evidence
from app.hardenings import tables as _hardenings
from app.idempotency import tables as _idempotency
from app.jobs import tables as _jobs
from app.measurements import tables as _measurements
from app.rebases import tables as _rebases
from app.registry import tables as _registry
from app.second_person import tables as _second_person
from app.vault import tables as _vault
from app.withdrawals import tables as _withdrawals

__all__ = ["metadata"]

_DOMAINS = (
    _access,
    _audit,
    _certificates,
    _datasets,
    _deposits,
    _evidence,
    _hardenings,
    _idempotency,
    _jobs,
    _measurements,
    _rebases,
    _registry,
    _second_person,
    _vault,
    _withdrawals,
)
metadata = Base.metadata
