"""Answers: from a protocol request or an image to logits, probabilities and class names."""

import torch
from anyio.to_thread import run_sync
from sqlalchemy.orm import Session
from torch import Tensor

from app.access.service import Actor, Role, demand
from app.base.errors import Problem
from app.inference import tensors
from app.inference.engine import InferenceEngine
from app.inference.schemas import (
    InferRequest,
    InferResponse,
    ModelMetadata,
    ModelView,
    ModelViews,
    Prediction,
    Predictions,
    RepositoryEntry,
    RequestedOutput,
    TensorMetadata,
    ViewName,
)
from app.inference.tensors import InvalidTensor, OutputTensor
from app.inference.views import Asked, View, Views
from app.registry import service as registry
from lirf_core.images.decoding import Decoders, UnreadableImage

INPUT = "input"
OUTPUTS = ("logits", "probabilities", "class")
# What takes longer goes to a thread; what does not, would take longer to hand over.
QUICK_BYTES, QUICK_NUMBERS = 256 << 10, 4096


class UnknownOutput(Problem):
    status, slug, title = 422, "unknown-output", "The model has no such output"


class UnknownVersion(Problem):
    status, slug, title = 404, "unknown-version", "The model does not answer with this revision"


class ImageRefused(Problem):
    status, slug, title = 422, "unreadable-image", "The image cannot be used"


async def infer(
    engine: InferenceEngine,
    decoders: Decoders,
    actor: Actor,
    tokens: tuple[str, ...],
    model_name: str,
    version: str | None,
    request: InferRequest,
    raw: memoryview,
) -> list[bytes]:
    """Open Inference Protocol v2. Deposited classes are masked unless an auditor asks for raw logits.

    tokens: of held withdrawals. raw: what follows the request's JSON head. Returns the JSON head of the answer, and
    the tensors that follow it.
    Raises `InvalidTensor`, `BadFraming`, `UnknownOutput`, `UnknownVersion`, `Forbidden`, and what
    `InferenceEngine.answer` raises.
    """
    wanted = request.parameters
    if wanted.raw:
        demand(actor, Role.AUDITOR)
    if wanted.view == ViewName.TARGET:
        demand(actor, Role.ADMINISTRATOR)
    for output in request.outputs:
        if output.name not in OUTPUTS:
            raise UnknownOutput(f"there is no output '{output.name}'; there are {', '.join(OUTPUTS)}.")
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        raise InvalidTensor(f"give one input named '{INPUT}'; the request has {[i.name for i in request.inputs]}.")
    [given], [piece] = request.inputs, tensors.pieces(request.inputs, raw)

    def inputs_for(view: View) -> Tensor:
        demand_version(view, version)
        return tensors.read(given, piece, view.preprocessing, decoders)

    asked = Asked(tokens, wanted.withdrawal, wanted.view == ViewName.TARGET)
    seconds = None if wanted.timeout is None else wanted.timeout / 1_000_000
    is_quick = piece is not None and len(piece) <= QUICK_BYTES and given.datatype != "BYTES"
    view, logits = await engine.answer(model_name, asked, inputs_for, seconds, is_quick)
    if logits.numel() <= QUICK_NUMBERS:
        return _answered(request, view, logits)
    return await run_sync(_answered, request, view, logits)


def _answered(request: InferRequest, view: View, logits: Tensor) -> list[bytes]:
    if not request.parameters.raw:
        logits = masked(logits, view)
    outputs = request.outputs or [RequestedOutput(name=name) for name in OUTPUTS]
    head = InferResponse(
        model_name=view.model_name,
        model_version=str(view.network.revision),
        id=request.id,
        outputs=[],
        parameters={"revision": view.network.revision, "withdrawals": list(view.withdrawals)},
    )
    found = [_output(output.name, output.parameters.classification, logits, view) for output in outputs]
    return tensors.answered(request, head, found)


async def predict(
    engine: InferenceEngine, decoders: Decoders, asked: Asked, model_name: str, image: bytes, top: int
) -> Predictions:
    """The likeliest classes of one PNG or JPEG image. Raises `ImageRefused` and what `InferenceEngine.answer` does."""

    def pixels_for(view: View) -> Tensor:
        try:
            return view.preprocessing.normalise(decoders.tensor(image, view.preprocessing))
        except UnreadableImage as error:
            raise ImageRefused(f"{error} Send a PNG or JPEG file in the form field `image`.") from error

    view, logits = await engine.answer(model_name, asked, pixels_for)
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
    if not view.masked:
        return logits
    logits = logits.clone()
    logits[:, list(view.masked)] = torch.finfo(torch.float32).min
    return logits


def list_views(views: Views, actor: Actor, tokens: tuple[str, ...], model_name: str) -> ModelViews:
    """What the actor may ask. Raises what `Views.read` raises."""
    names = [ViewName.SERVED, *([ViewName.TARGET] if actor.has(Role.ADMINISTRATOR) else [])]
    found = []
    for name in names:
        view = views.read(model_name, Asked(tokens, is_bare=name == ViewName.TARGET))
        answering = [label for index, label in enumerate(view.class_names) if index not in view.masked]
        found.append(
            ModelView(name=name, revision=view.network.revision, withdrawals=list(view.withdrawals), classes=answering)
        )
    return ModelViews(views=found)


def index(session: Session, is_ready: bool) -> list[RepositoryEntry]:
    """Every model, by name. is_ready: only those that answer."""
    return [
        RepositoryEntry(
            name=model.name,
            version="" if model.revision is None else str(model.revision),
            state="UNAVAILABLE" if model.revision is None else "READY",
            reason="its weights are not there yet" if model.revision is None else "",
        )
        for model in registry.all_models(session)
        if model.revision is not None or not is_ready
    ]


def metadata(views: Views, model_name: str, version: str | None) -> ModelMetadata:
    """Raises `UnknownVersion` and what `Views.read` raises."""
    view = views.read(model_name)
    demand_version(view, version)
    size, classes = view.preprocessing, len(view.class_names)
    return ModelMetadata(
        name=model_name,
        versions=[str(view.network.revision)],
        platform="lirf_pytorch",
        inputs=[TensorMetadata(name=INPUT, datatype="FP32", shape=[-1, size.channels, size.height, size.width])],
        outputs=[
            TensorMetadata(name="logits", datatype="FP32", shape=[-1, classes]),
            TensorMetadata(name="probabilities", datatype="FP32", shape=[-1, classes]),
            TensorMetadata(name="class", datatype="BYTES", shape=[-1]),
        ],
    )


def demand_version(view: View, version: str | None) -> None:
    """Raises `UnknownVersion` unless it is the revision that answers, or none is named."""
    if version is not None and version != str(view.network.revision):
        raise UnknownVersion(
            f"model '{view.model_name}' answers with revision {view.network.revision} and with no other: "
            "older ones know what was deposited since."
        )


def _output(name: str, classes: int | None, logits: Tensor, view: View) -> OutputTensor:
    names = view.class_names
    if name == "class":
        return OutputTensor(name, [len(logits)], [names[i] for i in logits.argmax(1).tolist()])
    values = logits if name == "logits" else logits.softmax(1)
    if classes is None:
        return OutputTensor(name, list(values.shape), values)
    top, indices = values.topk(min(classes, len(names) - len(view.masked)), dim=1)
    told = [
        f"{value:f}:{index}:{names[index]}"
        for value, index in zip(top.flatten().tolist(), indices.flatten().tolist(), strict=True)
    ]
    return OutputTensor(name, list(top.shape), told)
