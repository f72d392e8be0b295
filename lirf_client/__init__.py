"""A small, typed client for the LIRF service.

from lirf_client import Client

with Client("http://127.0.0.1:8000", key="lirf_...") as lirf:
    print(lirf.classes("cifar"))
"""

from lirf_client.client import AwaitingApproval, Client, LirfError
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

__all__ = [
    "Approval",
    "AuditEvent",
    "AuditHead",
    "AwaitingApproval",
    "Client",
    "Dataset",
    "Deposit",
    "Evidence",
    "EvidenceSummary",
    "LirfError",
    "Model",
    "ModelClass",
    "Policy",
    "Predictions",
    "Purge",
    "Restoration",
    "Verification",
    "Withdrawal",
]
