"""Open Inference Protocol v2, JSON tensors; and a plain form for people."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool

from app.wire import Id


class InferInput(BaseModel):
    name: str = Field(max_length=100, examples=["input"])
    shape: list[int] = Field(min_length=1, max_length=8)
    datatype: str = Field(max_length=10, examples=["FP32"])
    data: list[Any] = Field(description="Numbers in row-major order, flat or nested.")
    parameters: dict[str, Any] = {}


class RequestedOutput(BaseModel):
    name: str = Field(max_length=100, examples=["class"])
    parameters: dict[str, Any] = {}


class InferParameters(BaseModel):
    model_config = ConfigDict(extra="allow")

    raw: StrictBool = Field(
        False, description="Logits without the mask over deposited classes; for auditors and administrators."
    )
    withdrawal: Id | None = Field(None, description="Answer with this withdrawal alone, and what is restored.")


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
    inputs: list[InferInput] = Field(min_length=1, max_length=16)
    outputs: list[RequestedOutput] = Field(
        [], max_length=16, description="logits, probabilities, class; none named: all."
    )
    parameters: InferParameters = InferParameters()


class InferOutput(BaseModel):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class InferResponse(BaseModel):
    model_name: str
    model_version: str = Field(description="The revision that answered.")
    id: str | None = None
    outputs: list[InferOutput]
    parameters: dict[str, Any] = Field(description="`revision`, and the `withdrawals` it was computed with.")


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
