from typing import Annotated

from fastapi import APIRouter, Body, Depends, File, Header, Query, Request, Response, UploadFile

from app.api.bodies import LimitedRoute
from app.api.dependencies import AnyKey, DecodersDep, EngineDep, ReadingDep
from app.api.tensor_route import HEAD_BYTES, MAX_TOKENS, TensorRoute, framed, raw_tensors, tokens_of
from app.inference import service
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

EXTENSIONS = ["binary_tensor_data", "classification", "model_repository"]


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
    version: str | None = None,
) -> Response:
    """Open Inference Protocol v2 with JSON and binary tensors. The answer names its revision and withdrawals."""
    return framed(await service.infer(engine, decoders, actor, tokens, name, version, body, raw))


@router.get("/v1/models/{name}/views")
def list_views(name: str, actor: AnyKey, engine: EngineDep, tokens: Tokens) -> ModelViews:
    """List the views that a caller may ask: what the model serves now and, for administrators, its target network."""
    return service.list_views(engine.views, actor, tokens, name)


@router.post("/v1/models/{name}/predict")
async def predict(
    name: str,
    actor: AnyKey,
    engine: EngineDep,
    decoders: DecodersDep,
    tokens: Tokens,
    image: Annotated[UploadFile, File(description="One PNG or JPEG file.")],
    top: Annotated[int, Query(ge=1, le=100)] = 5,
) -> Predictions:
    """Classify one image (`curl -F image=@photo.jpg`)."""
    return await service.predict(engine, decoders, ViewSelector(tokens), name, await image.read(), top)
