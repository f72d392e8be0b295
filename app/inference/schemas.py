"""Open Inference Protocol v2, and a plain form for people."""

from collections.abc import Callable
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, StrictBool, StrictInt

from app.base.field_types import Id


def _or_default(default: Callable[[], Any], kind: Any) -> BeforeValidator:
    """Takes null for an optional field that is left out, as some clients of the protocol send it; kind: its type."""
    return BeforeValidator(lambda value: default() if value is None else value, json_schema_input_type=kind | None)


class ViewName(StrEnum):
    SERVED = "served"
    TARGET = "target"


class InputParameters(BaseModel):
    model_config = ConfigDict(extra="allow")

    binary_data_size: StrictInt | None = Field(None, ge=0, description="Raw bytes of this input after the JSON head.")


class InferInput(BaseModel):
    name: str = Field(max_length=100, description="`input`.")
    shape: Annotated[list[StrictInt], FailFast()] = Field(min_length=1, max_length=8)
    datatype: str = Field(
        max_length=10,
        description="FP32 (normalised), UINT8 (pixels, channels first or last) or BYTES (PNG or JPEG files).",
    )
    data: list[Any] | None = Field(
        None,
        description="Numbers in row-major order, flat or nested; files as base64. Leave it out if raw bytes follow.",
    )
    parameters: Annotated[InputParameters, _or_default(InputParameters, InputParameters)] = Field(
        default_factory=InputParameters  # Pydantic would copy a default deeply
    )


class OutputParameters(BaseModel):
    model_config = ConfigDict(extra="allow")

    binary_data: StrictBool | None = Field(None, description="Send this output as raw bytes after the JSON head.")
    classification: StrictInt | None = Field(
        None, ge=1, le=1_000_000, description="Send this many of the likeliest classes, each as value:index:name."
    )


class RequestedOutput(BaseModel):
    name: str = Field(max_length=100, description="`logits`, `probabilities` or `class`.")
    parameters: Annotated[OutputParameters, _or_default(OutputParameters, OutputParameters)] = Field(
        default_factory=OutputParameters
    )


class InferParameters(BaseModel):
    model_config = ConfigDict(extra="allow")

    raw: Annotated[StrictBool, _or_default(bool, StrictBool)] = Field(
        False,
        description="Without effect: networks are served without the rows of deposited classes, so there are no logits "
        "to show. Earlier versions left out a mask. Needs the role auditor or administrator.",
    )
    binary_data_output: Annotated[StrictBool, _or_default(bool, StrictBool)] = Field(
        False, description="The default of the outputs' `binary_data`."
    )
    timeout: StrictInt | None = Field(
        None, ge=1, le=1 << 62, description="Microseconds until the request fails with 504."
    )
    view: Annotated[ViewName, _or_default(lambda: ViewName.SERVED, ViewName)] = Field(
        ViewName.SERVED, description="`target`: without withdrawn and restored classes. Needs the role administrator."
    )
    withdrawal: Id | None = Field(None, description="Answer with only this withdrawal and the restored classes.")


class InferRequest(BaseModel):
    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "inputs": [{"name": "input", "shape": [1, 1, 16, 16], "datatype": "UINT8", "data": [0] * 256}],
                    "outputs": [{"name": "class"}, {"name": "probabilities"}],
                }
            ]
        }
    )

    id: str | None = Field(None, max_length=200)
    inputs: Annotated[list[InferInput], FailFast()] = Field(min_length=1, max_length=16)
    outputs: Annotated[
        list[RequestedOutput], FailFast(), _or_default(list, Annotated[list[RequestedOutput], Field(max_length=16)])
    ] = Field([], max_length=16, description="Of logits, probabilities and class. Empty: all three.")
    parameters: Annotated[InferParameters, _or_default(InferParameters, InferParameters)] = Field(
        default_factory=InferParameters
    )


class InferOutput(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: dict[str, Any] | None = None


class InferResponse(BaseModel):
    model_name: str
    model_version: str = Field(description="The revision that answered.")
    id: str | None = None
    outputs: list[InferOutput]
    parameters: dict[str, Any] = Field(description="The `revision` and the `withdrawals` that answered.")


class ServerMetadata(BaseModel):
    name: str
    version: str
    extensions: list[str]


class RepositoryQuery(BaseModel):
    model_config = ConfigDict(json_schema_extra={"examples": [{"ready": True}]})

    ready: Annotated[StrictBool, _or_default(bool, StrictBool)] = Field(
        False, description="List only the models that have weights."
    )


class RepositoryEntry(BaseModel):
    name: str
    version: str = Field(description="The revision that answers; empty without weights.")
    state: Literal["READY", "UNAVAILABLE"]
    reason: str = ""


class ModelView(BaseModel):
    name: ViewName = Field(description="The value of `parameters.view` in a request.")
    revision: int
    withdrawals: list[str] = Field(description="Ids of the withdrawals that take part.")
    classes: list[str] = Field(description="The classes that the view answers with.")


class ModelViews(BaseModel):
    views: list[ModelView]


class TensorMetadata(BaseModel):
    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(BaseModel):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class Prediction(BaseModel):
    class_name: str = Field(serialization_alias="class")
    probability: float


class Predictions(BaseModel):
    model: str
    revision: int
    withdrawals: list[str]
    predictions: list[Prediction] = Field(description="The likeliest classes first.")


class Health(BaseModel):
    status: Literal["ok"] = "ok"
