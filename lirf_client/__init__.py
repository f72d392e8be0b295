"""A small, typed client for the LIRF service.

from lirf_client import Client

with Client("http://127.0.0.1:8000", key="lirf_...") as lirf:
    print(lirf.classes("cifar"))
"""

from typing import TYPE_CHECKING, Any

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
    View,
    Withdrawal,
)

if TYPE_CHECKING:
    from lirf_client.client import Client

__all__ = [
    "Approval",
    "AuditEvent",
    "AuditHead",
    "AwaitingApproval",
    "Base",
    "Client",
    "Dataset",
    "Deposit",
    "Evidence",
    "EvidenceSummary",
    "Hardening",
    "LirfError",
    "Measurement",
    "Model",
    "ModelClass",
    "NotSendable",
    "Policy",
    "Predictions",
    "Purge",
    "Rebase",
    "Removal",
    "Restoration",
    "Verification",
    "View",
    "Withdrawal",
]


def __getattr__(name: str) -> Any:
    """Import `Client` when it is first used: its HTTP library takes longer to import than all the rest."""
    if name != "Client":
        raise AttributeError(f"module 'lirf_client' has no attribute '{name}'")
    from lirf_client.client import Client

    return Client
