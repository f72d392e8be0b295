"""The client's types match the service's answers."""

import typing

import pytest
from pydantic import BaseModel

from app.audit import schemas as audit
from app.classes import schemas as classes
from app.datasets import schemas as datasets
from app.deposits import schemas as deposits
from app.evidence import schemas as evidence
from app.hardenings import schemas as hardenings
from app.inference import schemas as inference
from app.purges import schemas as purges
from app.registry import schemas as registry
from app.restorations import schemas as restorations
from app.second_person import schemas as second_person
from app.withdrawals import schemas as withdrawals
from lirf_client import types


@pytest.mark.parametrize(
    ("client_type", "schema"),
    [
        (types.Model, hardenings.Model),
        (types.ModelHardening, hardenings.ModelHardening),
        (types.Hardening, hardenings.Hardening),
        (types.Base, hardenings.Base),
        (types.Rest, purges.Rest),
        (types.ModelClass, classes.ModelClass),
        (types.Dataset, datasets.Dataset),
        (types.Progress, deposits.Progress),
        (types.NetworkAccuracy, deposits.NetworkAccuracy),
        (types.DepositMetrics, deposits.DepositMetrics),
        (types.Membership, deposits.Membership),
        (types.Deposit, deposits.Deposit),
        (types.EvidenceProgress, evidence.EvidenceProgress),
        (types.EvidenceSummary, evidence.EvidenceSummary),
        (types.Evidence, evidence.Evidence),
        (types.Purge, purges.Purge),
        (types.Restoration, restorations.Restoration),
        (types.Withdrawal, withdrawals.Withdrawal),
        (types.Approval, second_person.Approval),
        (types.Policy, registry.Policy),
        (types.AuditEvent, audit.AuditEvent),
        (types.AuditHead, audit.AuditHead),
        (types.AuditFault, audit.AuditFault),
        (types.Verification, audit.Verification),
        (types.Prediction, inference.Prediction),
        (types.Predictions, inference.Predictions),
    ],
)
def test_each_type_of_the_client_has_the_fields_of_the_service(client_type: type, schema: type[BaseModel]) -> None:
    names = {field.serialization_alias or name for name, field in schema.model_fields.items()}
    assert set(typing.get_type_hints(client_type)) == names
