"""Answers: from a protocol request or an image to logits, probabilities and class names."""

import math

import numpy
import torch
from torch import Tensor

from app.access.service import Actor, Role, demand
from app.errors import Problem
from app.inference.engine import InferenceEngine, View
from app.inference.schemas import InferInput, InferOutput, InferRequest, InferResponse, Prediction, Predictions
from lirf_core import archives

INPUT = "input"
OUTPUTS = ("logits", "probabilities", "class")
MAX_BATCH = 4096


class InvalidTensor(Problem):
    status, slug, title = 422, "invalid-tensor", "The input tensor does not fit the model"


class UnknownOutput(Problem):
    status, slug, title = 422, "unknown-output", "The model has no such output"


class ImageRefused(Problem):
    status, slug, title = 422, "unreadable-image", "The image cannot be used"


def infer(engine: InferenceEngine, actor: Actor, model_name: str, request: InferRequest) -> InferResponse:
    """Open Inference Protocol v2. Deposited classes are masked unless an auditor asks for raw logits.

    Raises `InvalidTensor`, `UnknownOutput`, `Forbidden`, and what `InferenceEngine.view` raises.
    """
    if request.parameters.raw:
        demand(actor, Role.AUDITOR)
    for output in request.outputs:
        if output.name not in OUTPUTS:
            raise UnknownOutput(f"there is no output '{output.name}'; there are {', '.join(OUTPUTS)}.")
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        raise InvalidTensor(f"give one input named '{INPUT}'; the request has {[i.name for i in request.inputs]}.")
    view, logits = engine.answer(
        model_name, request.parameters.withdrawal, lambda view: read_tensor(request.inputs[0], view)
    )
    if not request.parameters.raw:
        logits = masked(logits, view)
    names = [output.name for output in request.outputs] or list(OUTPUTS)
    return InferResponse(
        model_name=model_name,
        model_version=str(view.network.revision),
        id=request.id,
        outputs=[_output(name, logits, view) for name in names],
        parameters={"revision": view.network.revision, "withdrawals": list(view.withdrawals)},
    )


def predict(engine: InferenceEngine, model_name: str, image: bytes, top: int) -> Predictions:
    """The likeliest classes of one PNG or JPEG image. Raises `ImageRefused` and what `InferenceEngine.view` raises."""

    def pixels_for(view: View) -> Tensor:
        try:
            return view.preprocessing.normalise(archives.decode_image(image, view.preprocessing))
        except archives.BadArchive as error:
            raise ImageRefused(f"{error} Send a PNG or JPEG file in the form field `image`.") from error

    view, logits = engine.answer(model_name, None, pixels_for)
    logits = masked(logits, view)
    probabilities, indices = logits[0].softmax(0).topk(min(top, logits.shape[1] - len(view.masked)))
    return Predictions(
        model=model_name,
        revision=view.network.revision,
        withdrawals=list(view.withdrawals),
        predictions=[
            Prediction(class_name=view.class_names[i], probability=round(p, 6))
            for p, i in zip(probabilities.tolist(), indices.tolist(), strict=True)
        ],
    )


def masked(logits: Tensor, view: View) -> Tensor:
    """Deposited classes at the lowest finite float32 (JSON has no infinity): probability 0, never the answer."""
    logits = logits.clone()
    logits[:, list(view.masked)] = torch.finfo(torch.float32).min
    return logits


def read_tensor(given: InferInput, view: View) -> Tensor:
    """FP32 as it is (normalised), UINT8 normalised here. Returns float32 (B, C, H, W). Raises `InvalidTensor`."""
    size = view.preprocessing
    wanted = [size.channels, size.height, size.width]
    if len(given.shape) != 4 or given.shape[1:] != wanted or not 1 <= given.shape[0] <= MAX_BATCH:
        raise InvalidTensor(
            f"shape is {given.shape}; the model takes [batch, {', '.join(map(str, wanted))}], batch 1 to {MAX_BATCH}."
        )
    if given.datatype not in ("FP32", "UINT8"):
        raise InvalidTensor(
            f"datatype is {given.datatype[:10]}; the model takes FP32 (normalised) or UINT8 (pixels, 0 to 255)."
        )
    try:
        values = numpy.asarray(given.data, dtype=numpy.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidTensor("data holds something that is not a number, or its nesting is uneven.") from error
    if values.size != math.prod(given.shape) or (values.ndim > 1 and list(values.shape) != given.shape):
        raise InvalidTensor(f"data has {values.size} numbers; shape {given.shape} needs {math.prod(given.shape)}.")
    flat = values.reshape(given.shape)
    if given.datatype == "UINT8":
        if not ((flat >= 0) & (flat <= 255) & (flat == numpy.floor(flat))).all():
            raise InvalidTensor("UINT8 data are whole numbers from 0 to 255.")
        return size.normalise(torch.from_numpy(flat.astype(numpy.uint8)))
    if not (numpy.abs(flat) <= numpy.finfo(numpy.float32).max).all():
        raise InvalidTensor("FP32 data are finite numbers.")
    return torch.from_numpy(flat.astype(numpy.float32))


def _output(name: str, logits: Tensor, view: View) -> InferOutput:
    if name == "class":
        names = [view.class_names[i] for i in logits.argmax(1).tolist()]
        return InferOutput(name=name, shape=[len(names)], datatype="BYTES", data=names)
    values = logits if name == "logits" else logits.softmax(1)
    return InferOutput(name=name, shape=list(values.shape), datatype="FP32", data=values.flatten().tolist())
