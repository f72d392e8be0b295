"""The interactive documentation has a valid example for each body."""

import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args

import pytest
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.access.schemas import KeyCreate
from app.audit.schemas import Anchors
from app.deposits.schemas import DepositCreate
from app.evidence.schemas import EvidenceCreate
from app.hardenings.schemas import BaseCreate, HardeningCreate
from app.inference.schemas import InferRequest, RepositoryQuery
from app.main import routes as application_routes
from app.measurements.schemas import MeasurementCreate
from app.purges.schemas import PurgeCreate
from app.rebases.schemas import RebaseCreate
from app.registry.schemas import ModelCreate, PolicyChange
from app.restorations.schemas import RestorationCreate
from app.second_person.schemas import Refusal
from app.withdrawals.schemas import WithdrawalCreate, WithdrawalRenewal
from tests.app.conftest import HTTP, Service

BODIES: tuple[type[BaseModel], ...] = (
    Anchors,
    BaseCreate,
    KeyCreate,
    DepositCreate,
    EvidenceCreate,
    HardeningCreate,
    InferRequest,
    MeasurementCreate,
    RepositoryQuery,
    ModelCreate,
    PolicyChange,
    PurgeCreate,
    RebaseCreate,
    RestorationCreate,
    Refusal,
    WithdrawalCreate,
    WithdrawalRenewal,
)


def test_every_json_body_has_a_valid_example() -> None:
    described = application_routes().openapi()
    bodies = {
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].split("/")[-1]
        for path in described["paths"].values()
        for operation in path.values()
        if "application/json" in operation.get("requestBody", {}).get("content", {})
    }
    known: dict[str, Any] = {body.__name__: body for body in BODIES}
    assert bodies == known.keys()
    for name in bodies:
        examples = described["components"]["schemas"][name]["examples"]
        assert examples
        for example in examples:
            TypeAdapter(known[name]).validate_python(example)


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_neither_true_nor_text_is_accepted_as_a_number(body: type[BaseModel]) -> None:
    """By default, Pydantic accepts `true` and "1" as 1, although the description says otherwise."""
    for model in with_parts(body):
        for field in model.model_fields.values():
            adapter: TypeAdapter[Any] = TypeAdapter(Annotated[field.annotation, field])
            described = str(adapter.json_schema())
            if "'number'" in described or "'integer'" in described:
                for wrong in (True, "1", [True], ["1"]):
                    with pytest.raises(ValidationError):
                        adapter.validate_python(wrong)


def unbounded(schema: Any, at: str) -> Iterator[str]:
    """Where a JSON schema allows lists or texts of any length."""
    if isinstance(schema, list):
        for number, part in enumerate(schema):
            yield from unbounded(part, f"{at}.{number}")
    elif isinstance(schema, dict):
        if schema.get("type") == "array" and "maxItems" not in schema:
            yield at
        is_fixed = {"enum", "const", "format", "pattern"} & schema.keys()
        if schema.get("type") == "string" and "maxLength" not in schema and not is_fixed:
            yield at
        for name, part in schema.items():
            if name not in ("examples", "default"):
                yield from unbounded(part, f"{at}.{name}")


@pytest.mark.parametrize("body", BODIES, ids=lambda body: body.__name__)
def test_every_list_and_text_of_a_body_has_a_bound(body: type[BaseModel]) -> None:
    """All but numbers in JSON, whose count has a bound."""
    found = set(unbounded(body.model_json_schema(), ""))
    assert found <= {".$defs.InferInput.properties.data.anyOf.0"}


def with_parts(body: type[BaseModel]) -> set[type[BaseModel]]:
    """The body, and every model inside it."""
    models, queue = set(), [body]
    while queue:
        model = queue.pop()
        models.add(model)
        for field in model.model_fields.values():
            for kind in (field.annotation, *get_args(field.annotation)):
                if isinstance(kind, type) and issubclass(kind, BaseModel) and kind not in models:
                    queue.append(kind)
    return models


def test_the_interactive_documentation_needs_no_other_host(service: Service) -> None:
    page = HTTP.get(f"{service.url}/docs").text
    assets = re.findall(r'(?:src|href)="(.*?)"', page)
    assert len(assets) >= 2
    for asset in assets:
        assert asset.startswith("/static-offline-docs/")
        assert HTTP.get(service.url + asset).status_code == 200


def test_every_operation_has_a_description() -> None:
    for path, operations in application_routes().openapi()["paths"].items():
        for method, operation in operations.items():
            assert operation.get("description"), (method, path)
