"""Answers protocol requests and images with logits, probabilities and class names, and describes the models."""

import torch
from anyio.to_thread import run_sync
from sqlalchemy.orm import Session
from torch import Tensor

from app.access.service import Actor, Role, demand
from app.audit import service as audit
from app.base.errors import Problem
from app.inference import tensors
from app.inference.batches import InvalidLogits
from app.inference.deadline import Deadline
from app.inference.engine import InferenceEngine, Inputs
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
from app.inference.views import View, Views, ViewSelector
from app.registry import service as registry
from lirf_core.images.decoding import Decoders, GivenUp, UnreadableImage

INPUT = "input"
OUTPUTS = ("logits", "probabilities", "class")
# Larger requests and answers go to a thread; for smaller ones, the hand-over would take longer than the work.
QUICK_BYTES, QUICK_NUMBERS = 256 << 10, 4096


class UnknownOutput(Problem):
    """The request names an output other than `logits`, `probabilities` and `class`. Name one of these."""

    status, slug, title = 422, "unknown-output", "Unknown output"


class UnknownVersion(Problem):
    """The path names a revision that does not serve. Leave the version out, or name the current one."""

    status, slug, title = 404, "unknown-version", "The model does not answer with this revision"


class ExtremeInput(Problem):
    """FP32 values are so large that the network's logits are not finite. Normalise the images, or send pixels."""

    status, slug, title = 422, "extreme-input", "The values are too large for the network"


class ImageRefused(Problem):
    """The image is not a PNG or JPEG, is damaged, or needs more than an image may use. The detail says which."""

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
    deadline: Deadline,
) -> tuple[View, list[bytes]]:
    """Answer a request of the Open Inference Protocol v2. Deposited classes have the lowest logit, and probability 0.

    tokens: of held withdrawals. raw: the bytes after the request's JSON head.
    Returns the view that answered, and the response's JSON head followed by its raw tensors.
    Raises `InvalidTensor`, `ExtremeInput`, `AnswerTooLarge`, `BadFraming`, `UnknownOutput`, `UnknownVersion`,
    `Forbidden`, and what `InferenceEngine.answer` raises.
    """
    parameters = request.parameters
    if parameters.timeout is not None:
        deadline.shorten(parameters.timeout / 1_000_000)
    is_target_only = parameters.view == ViewName.TARGET
    if parameters.raw:
        demand(actor, Role.AUDITOR)
    if is_target_only:
        demand(actor, Role.ADMINISTRATOR)
    for output in request.outputs:
        if output.name not in OUTPUTS:
            raise UnknownOutput(f"There is no output '{output.name}'. The outputs are {', '.join(OUTPUTS)}.")
    if len(request.inputs) != 1 or request.inputs[0].name != INPUT:
        names = [tensor.name for tensor in request.inputs]
        raise InvalidTensor(f"Send one input named '{INPUT}'. The inputs of this request are {names}.")
    [tensor], [piece] = request.inputs, tensors.split_raw(request.inputs, raw)

    def inputs_for(view: View) -> Inputs:
        demand_version(view, version)
        inputs = tensors.read(tensor, piece, view.preprocessing, decoders)
        names = [output.name for output in request.outputs] or OUTPUTS
        tensors.demand_size(request, names, inputs.count, len(view.class_names))
        return inputs

    selector = ViewSelector(tokens, parameters.withdrawal, is_target_only)
    is_unrecorded = parameters.raw or is_target_only
    is_quick = piece is not None and len(piece) <= QUICK_BYTES and tensor.datatype != "BYTES"
    while True:
        try:
            view, logits = await engine.answer(model_name, selector, inputs_for, actor.key_id, is_quick)
        except InvalidLogits as error:
            if tensor.datatype != "FP32":
                raise
            raise ExtremeInput(
                "The network's logits of an image are not finite numbers, so the image has no class. FP32 must be "
                "normalised like the images that the network was trained on. Or send pixels as UINT8."
            ) from error
        if logits.numel() <= QUICK_NUMBERS:
            parts = _respond(request, view, logits)
        else:
            parts = await engine.turns.run(actor.key_id, _respond, request, view, logits)
        if is_unrecorded:
            await run_sync(_record_read, engine, actor, view, is_target_only, parameters.raw)
            is_unrecorded = False
        if await engine.confirm([view]):  # a long answer takes a while to write
            return view, parts


def _record_read(engine: InferenceEngine, actor: Actor, view: View, is_target_only: bool, is_raw: bool) -> None:
    """Record who looks at what others do not see, before the answer leaves."""
    details = {
        "view": ViewName.TARGET if is_target_only else ViewName.SERVED,
        "is_raw": is_raw,
        "revision": view.network.revision,
        "withdrawals": list(view.withdrawals),
    }
    audit.record_read(engine.database, actor.name, "logits.read", model=view.model_name, details=details)


def _respond(request: InferRequest, view: View, logits: Tensor) -> list[bytes]:
    logits = mask(logits, view)
    outputs = request.outputs or [RequestedOutput(name=name) for name in OUTPUTS]
    response = InferResponse(
        model_name=view.model_name,
        model_version=str(view.network.revision),
        id=request.id,
        outputs=[],
        parameters={"revision": view.network.revision, "withdrawals": list(view.withdrawals)},
    )
    values = [_output(output.name, output.parameters.classification, logits, view) for output in outputs]
    return tensors.write(request, response, values)


async def predict(
    engine: InferenceEngine,
    decoders: Decoders,
    actor: Actor,
    selector: ViewSelector,
    model_name: str,
    image: bytes,
    top: int,
) -> tuple[View, Predictions]:
    """The view that answered, and the `top` likeliest classes of one PNG or JPEG image.

    Raises `ImageRefused` and what `InferenceEngine.answer` raises.
    """

    given_up = GivenUp()

    def inputs_for(view: View) -> Inputs:
        def decode(start: int, stop: int) -> Tensor:
            try:
                return view.preprocessing.normalise(decoders.tensor(image, view.preprocessing, given_up))
            except UnreadableImage as error:
                raise ImageRefused(str(error)) from error

        return Inputs(1, decode, at_once=1, given_up=given_up)

    view, logits = await engine.answer(model_name, selector, inputs_for, actor.key_id)
    if selector.is_target_only:
        await run_sync(_record_read, engine, actor, view, True, False)
    logits = mask(logits, view)
    probabilities, indices = logits[0].softmax(0).topk(min(top, logits.shape[1] - len(view.masked_classes)))
    predictions = [
        Prediction(class_name=view.class_names[i], probability=round(p, 6))
        for p, i in zip(probabilities.tolist(), indices.tolist(), strict=True)
    ]
    return view, Predictions(
        model=model_name,
        revision=view.network.revision,
        withdrawals=list(view.withdrawals),
        predictions=predictions,
    )


def mask(logits: Tensor, view: View) -> Tensor:
    """Give deposited classes the lowest finite float32 (JSON has no infinity): their probability is 0.

    The network has no rows for them, and its own value depends on its precision. While the rows of a model that an
    earlier version stored are not separated yet, this hides what they answer.
    """
    if not view.masked_classes:
        return logits
    logits = logits.clone()
    logits[:, list(view.masked_classes)] = torch.finfo(torch.float32).min
    return logits


def list_views(views: Views, actor: Actor, tokens: tuple[str, ...], model_name: str) -> ModelViews:
    """The views that the actor may use. Raises what `Views.read` raises."""
    names = [ViewName.SERVED, *([ViewName.TARGET] if actor.has(Role.ADMINISTRATOR) else [])]
    model_views = []
    for name in names:
        view = views.read(model_name, ViewSelector(tokens, is_target_only=name == ViewName.TARGET))
        answering = [label for index, label in enumerate(view.class_names) if index not in view.masked_classes]
        model_views.append(
            ModelView(name=name, revision=view.network.revision, withdrawals=list(view.withdrawals), classes=answering)
        )
    return ModelViews(views=model_views)


def index(session: Session, only_ready: bool) -> list[RepositoryEntry]:
    """Every model, by name. only_ready: leave out the models without weights."""
    return [
        RepositoryEntry(
            name=model.name,
            version="" if model.revision is None else str(model.revision),
            state="UNAVAILABLE" if model.revision is None else "READY",
            reason="Its weights are not uploaded yet." if model.revision is None else "",
        )
        for model in registry.all_models(session)
        if model.revision is not None or not only_ready
    ]


def metadata(views: Views, model_name: str, version: str | None) -> ModelMetadata:
    """The model's inputs and outputs. Raises `UnknownVersion` and what `Views.read` raises."""
    view = views.read(model_name)
    demand_version(view, version)
    preprocessing, classes = view.preprocessing, len(view.class_names)
    return ModelMetadata(
        name=model_name,
        versions=[str(view.network.revision)],
        platform="lirf_pytorch",
        inputs=[
            TensorMetadata(
                name=INPUT,
                datatype="FP32",
                shape=[-1, preprocessing.channels, preprocessing.height, preprocessing.width],
            )
        ],
        outputs=[
            TensorMetadata(name="logits", datatype="FP32", shape=[-1, classes]),
            TensorMetadata(name="probabilities", datatype="FP32", shape=[-1, classes]),
            TensorMetadata(name="class", datatype="BYTES", shape=[-1]),
        ],
    )


def demand_version(view: View, version: str | None) -> None:
    """Raise `UnknownVersion` if the request names a version, and it is not the revision that answers."""
    if version is not None and version != str(view.network.revision):
        raise UnknownVersion(
            f"Model '{view.model_name}' answers only with revision {view.network.revision}. "
            "Older revisions still know the classes that were deposited later."
        )


def _output(name: str, count: int | None, logits: Tensor, view: View) -> OutputTensor:
    names = view.class_names
    if name == "class":
        return OutputTensor(name, [len(logits)], [names[i] for i in logits.argmax(1).tolist()])
    values = logits if name == "logits" else logits.softmax(1)
    if count is None:
        return OutputTensor(name, list(values.shape), values)
    top, indices = values.topk(min(count, len(names) - len(view.masked_classes)), dim=1)
    texts = [
        f"{value:f}:{index}:{names[index]}"
        for value, index in zip(top.flatten().tolist(), indices.flatten().tolist(), strict=True)
    ]
    return OutputTensor(name, list(top.shape), texts)
