from fastapi import APIRouter

from app.api.dependencies import AnyKey, ReadingDep
from app.classes import service
from app.classes.schemas import ModelClass, ModelClasses

router = APIRouter(prefix="/v1/models/{name}/classes", tags=["models"])


@router.get("")
def list_classes(name: str, actor: AnyKey, session: ReadingDep) -> ModelClasses:
    """List a model's classes: each one's state, since when, by whom and why, and its accuracy before and after."""
    return ModelClasses(model=name, classes=[ModelClass.model_validate(item) for item in service.report(session, name)])
