from typing import Annotated

from fastapi import APIRouter, Body, Depends, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError

from app.api.bodies import LimitedRoute
from app.api.dependencies import AnyKey, DecodersDep, EngineDep, ReadingDep, ViewsDep
from app.api.tensor_route import (
    HEAD_BYTES,
    MAX_TOKENS,
    TensorRoute,
    deadline_of,
    framed,
    in_time,
    raw_tensors,
    tokens_of,
)
from app.inference import service
from app.inference.deadline import Deadline
from app.inference.schemas import (
    Health,
    InferRequest,
    InferResponse,
    ModelMetadata,
    ModelViews,
    Predictions,
    RepositoryEntry,
    RepositoryQuery,
    ServerMetadata,
)
from app.inference.views import ViewSelector

router = APIRouter(tags=["inference"], route_class=LimitedRoute)
tensors = APIRouter(tags=["inference"], route_class=TensorRoute)

EXTENSIONS = ["binary_tensor_data", "classification"]


async def _tokens(
    withdrawal_token: Annotated[
        str | None, Header(max_length=MAX_TOKENS, description="Tokens of held withdrawals, separated by commas.")
    ] = None,
) -> tuple[str, ...]:
    return tokens_of(withdrawal_token or "")


Tokens = Annotated[tuple[str, ...], Depends(_tokens)]


@router.get("/v2")
def server_metadata(request: Request, actor: AnyKey) -> ServerMetadata:
    """The server, and which extensions of the Open Inference Protocol it has."""
    return ServerMetadata(name="lirf", version=request.app.version, extensions=EXTENSIONS)


@router.post("/v2/repository/index")
def repository_index(
    actor: AnyKey, session: ReadingDep, query: Annotated[RepositoryQuery, Body(default_factory=RepositoryQuery)]
) -> list[RepositoryEntry]:
    """List every model, and whether it answers."""
    return service.index(session, query.ready)


@router.get("/v2/models/{name}")
@router.get("/v2/models/{name}/versions/{version}")
def model_metadata(name: str, actor: AnyKey, engine: EngineDep, version: str | None = None) -> ModelMetadata:
    """Inputs and outputs of a model, in the words of the Open Inference Protocol. The version is its revision."""
    return service.metadata(engine.views, name, version)


@router.get("/v2/models/{name}/ready")
@router.get("/v2/models/{name}/versions/{version}/ready")
def is_model_ready(name: str, actor: AnyKey, engine: EngineDep, version: str | None = None) -> Health:
    """The model has weights and answers."""
    service.demand_version(engine.views.read(name), version)
    return Health()


_BINARY = {
    "description": "The JSON, followed by raw tensors if the request asks for them (binary tensor data extension).",
    "headers": {
        HEAD_BYTES: {
            "description": "Length of the JSON in bytes, if raw tensors follow.",
            "schema": {"type": "integer"},
        }
    },
    "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
}


@tensors.post("/v2/models/{name}/infer", response_model=InferResponse, responses={200: _BINARY})
@tensors.post("/v2/models/{name}/versions/{version}/infer", response_model=InferResponse, responses={200: _BINARY})
async def infer(
    name: str,
    body: InferRequest,
    raw: Annotated[memoryview, Depends(raw_tensors)],
    actor: AnyKey,
    engine: EngineDep,
    decoders: DecodersDep,
    tokens: Tokens,
    views: ViewsDep,
    deadline: Annotated[Deadline, Depends(deadline_of)],
    version: str | None = None,
) -> Response:
    """Open Inference Protocol v2 with JSON and binary tensors. The answer names its revision and withdrawals."""
    view, parts = await service.infer(engine, decoders, actor, tokens, name, version, body, raw, deadline)
    views.append(view)
    return framed(parts)


@router.get("/v1/models/{name}/views")
def list_views(name: str, actor: AnyKey, engine: EngineDep, tokens: Tokens) -> ModelViews:
    """List the views that a caller may ask: what the model serves now and, for administrators, its target network."""
    return service.list_views(engine.views, actor, tokens, name)


_FILE = {"type": "string", "format": "binary", "description": "One PNG or JPEG file."}
_IMAGE = {
    "required": True,
    "content": {
        "multipart/form-data": {"schema": {"type": "object", "required": ["image"], "properties": {"image": _FILE}}},
        "image/png": {"schema": _FILE},
        "image/jpeg": {"schema": _FILE},
    },
}
MAX_PARTS = 16  # of a form


async def _image(request: Request) -> bytes:
    """The form field `image`, with or without a file name, or else the whole body."""
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        return await request.body()
    limits = {"max_files": MAX_PARTS, "max_fields": MAX_PARTS, "max_part_size": request.state.settings.max_body_bytes}
    async with request.form(**limits) as form:
        part = form.get("image")
        if part is None:
            raise RequestValidationError([{"loc": ("body", "image"), "msg": "Field required", "type": "missing"}])
        if isinstance(part, str):  # Starlette decodes what is no UTF-8 as Latin-1, and no PNG or JPEG is UTF-8
            return part.encode("latin-1", "replace")
        return await part.read()


@router.post("/v1/models/{name}/predict", openapi_extra={"requestBody": _IMAGE})
async def predict(
    name: str,
    actor: AnyKey,
    engine: EngineDep,
    decoders: DecodersDep,
    tokens: Tokens,
    views: ViewsDep,
    request: Request,
    image: Annotated[bytes, Depends(_image)],
    top: Annotated[int, Query(ge=1, le=100)] = 5,
) -> Predictions:
    """Classify one image (`curl -F image=@photo.jpg`, or `curl --data-binary @photo.jpg`)."""
    async with in_time(request):
        view, predictions = await service.predict(engine, decoders, actor, ViewSelector(tokens), name, image, top)
    views.append(view)
    return predictions
