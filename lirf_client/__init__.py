"""A small typed client of the LIRF service.

from lirf_client import Client

with Client("http://127.0.0.1:8000", key="lirf_...") as lirf:
    print(lirf.classes("cifar"))
"""

from lirf_client.client import Client, LirfError
from lirf_client.types import (
    AuditEvent,
    AuditHead,
    Dataset,
    Deposit,
    Model,
    ModelClass,
    Predictions,
    Purge,
    Verification,
    Withdrawal,
)

__all__ = [
    "AuditEvent",
    "AuditHead",
    "Client",
    "Dataset",
    "Deposit",
    "LirfError",
    "Model",
    "ModelClass",
    "Predictions",
    "Purge",
    "Verification",
    "Withdrawal",
]
