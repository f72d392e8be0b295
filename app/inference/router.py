from typing import Annotated

from fastapi import APIRouter, File, Query, UploadFile

from app.dependencies import AnyKey, EngineDep
from app.inference import service
from app.inference.schemas import Health, InferRequest, InferResponse, ModelMetadata, Predictions, TensorMetadata
from app.requests import LimitedRoute

router = APIRouter(tags=["inference"], route_class=LimitedRoute)
health = APIRouter(prefix="/v2/health", tags=["health"])


@health.get("/live")
def is_live() -> Health:
    """The process answers."""
    return Health()


@router.get("/v2/models/{name}")
def model_metadata(name: str, actor: AnyKey, engine: EngineDep) -> ModelMetadata:
    """Inputs and outputs of a model, in the words of the Open Inference Protocol."""
    view = engine.view(name)
    size, classes = view.preprocessing, len(view.class_names)
    image = [-1, size.channels, size.height, size.width]
    return ModelMetadata(
        name=name,
        versions=[str(view.network.revision)],
        platform="lirf_pytorch",
        inputs=[TensorMetadata(name=service.INPUT, datatype="FP32", shape=image)],
        outputs=[
            TensorMetadata(name="logits", datatype="FP32", shape=[-1, classes]),
            TensorMetadata(name="probabilities", datatype="FP32", shape=[-1, classes]),
            TensorMetadata(name="class", datatype="BYTES", shape=[-1]),
        ],
    )


@router.get("/v2/models/{name}/ready")
def is_model_ready(name: str, actor: AnyKey, engine: EngineDep) -> Health:
    """The model has weights and can be asked."""
    engine.view(name)
    return Health()


@router.post("/v2/models/{name}/infer", response_model_exclude_none=True)
def infer(name: str, body: InferRequest, actor: AnyKey, engine: EngineDep) -> InferResponse:
    """Open Inference Protocol v2 with JSON tensors. The answer names its revision and withdrawals."""
    return service.infer(engine, actor, name, body)


@router.post("/v1/models/{name}/predict")
def predict(
    name: str,
    actor: AnyKey,
    engine: EngineDep,
    image: Annotated[UploadFile, File(description="One PNG or JPEG file.")],
    top: Annotated[int, Query(ge=1, le=100)] = 5,
) -> Predictions:
    """Classify one image (`curl -F image=@photo.jpg`)."""
    return service.predict(engine, name, image.file.read(), top)
