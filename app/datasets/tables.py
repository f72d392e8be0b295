"""Deposit sets, evaluation sets and preserved sets."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base, new_id, now
from lirf_core.enumeration import enumerated

FEW_IMAGES = 20  # of a class in a deposit set; fewer get a warning
FEW_PRESERVED = 10  # of a class in a preserved set


class DatasetRow(Base):
    """Images of a model's classes, packed in the vault. A deposit shreds its deposit set and its preserved set when it
    ends.
    """

    __tablename__ = "datasets"

    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)
    model_id: Mapped[str] = mapped_column(sa.ForeignKey("models.id"), index=True)
    purpose: Mapped[str] = mapped_column(sa.String(20))
    counts: Mapped[dict[str, Any]]
    object_id: Mapped[str] = mapped_column(sa.ForeignKey("vault_objects.id"))
    created_at: Mapped[datetime] = mapped_column(default=now)
    created_by: Mapped[str] = mapped_column(sa.String(100))
    shredded_at: Mapped[datetime | None]

    @property
    def warnings(self) -> list[str]:
        """What may make a deposit of or with these images worse than it could be, in full sentences."""
        enough = {"deposit": FEW_IMAGES, "preserved": FEW_PRESERVED}.get(self.purpose, 0)
        few = [f"'{name}' ({count})" for name, count in self.counts.items() if count < enough]
        if not few:
            return []
        if self.purpose == "preserved":
            advice = (
                f"With fewer than {FEW_PRESERVED} of a class, expect little use of them. 10 to 50 of each class help."
            )
            return [f"Few images of {enumerated(few)}. {advice}"]
        advice = (
            f"A deposit forgets what its images show: with fewer than {FEW_IMAGES} of a class, expect the model to "
            "recognise other images of it still. Upload all that it was trained on."
        )
        return [f"Few images of {enumerated(few)}. {advice}"]
