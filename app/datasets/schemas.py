from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from app.datasets.service import Purpose


class Dataset(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: str
    purpose: Purpose
    counts: dict[str, int] = Field(
        description="Number of images of each class.", examples=[{"airplane": 5000, "bird": 5000}]
    )
    created_at: datetime
    created_by: str
    shredded_at: datetime | None
    warnings: list[str] = Field(description="What may make a deposit with these images worse.")
