"""Models, their classes and their revisions."""

from datetime import datetime
from typing import Any, Literal

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column

from app.base.database import Base, new_id, now

Original = Literal["seal", "destroy"]  # what happens to networks that know deposited classes
Scrub = Literal["purge", "deposit"]  # when the modules of older deposits stop knowing a class
Hardening = Literal["served", "export", "none"]  # what becomes of hardened targets


class ModelRow(Base):
    """A registered classifier. `revision` is the one in service (None until the model has weights). `generation` counts
    the changes to what the model may answer, so that replicas notice them with one indexed read."""

    __tablename__ = "models"

    id: Mapped[str] = mapped_column(sa.String(36), primary_key=True, default=new_id)
    name: Mapped[str] = mapped_column(sa.String(64), unique=True)
    architecture: Mapped[dict[str, Any]]
    preprocessing: Mapped[dict[str, Any]]
    split: Mapped[str] = mapped_column(sa.String(20))
    class_names: Mapped[list[str]]
    upper_digest: Mapped[str | None] = mapped_column(sa.String(64))
    upper_object_id: Mapped[str | None] = mapped_column(sa.ForeignKey("vault_objects.id"))
    rows_object_id: Mapped[str | None] = mapped_column(sa.ForeignKey("vault_objects.id"))
    revision: Mapped[int | None]
    generation: Mapped[int] = mapped_column(default=0)
    module_replacements: Mapped[int] = mapped_column(default=0, server_default="0")
    original_policy: Mapped[str] = mapped_column(sa.String(10), default="seal")
    needs_second_person: Mapped[bool] = mapped_column(default=False)
    scrub: Mapped[str] = mapped_column(sa.String(10), default="purge", server_default="deposit")
    hardening: Mapped[str] = mapped_column(sa.String(10), default="served", server_default="none")
    max_preserved_loss: Mapped[float] = mapped_column(sa.Float, default=5.0, server_default="5")
    max_module_loss: Mapped[float] = mapped_column(sa.Float, default=5.0, server_default="5")
    max_total_loss: Mapped[float] = mapped_column(sa.Float, default=10.0, server_default="10")
    policy_version: Mapped[int] = mapped_column(default=1)
    created_at: Mapped[datetime] = mapped_column(default=now)
    created_by: Mapped[str] = mapped_column(sa.String(100))
    removed_at: Mapped[datetime | None]
    removed_by: Mapped[str | None] = mapped_column(sa.String(100))
    removal_reason: Mapped[str | None] = mapped_column(sa.Text)


class ModelClassRow(Base):
    """A class of a model and, if it is deposited, the deposit that holds it."""

    __tablename__ = "model_classes"

    model_id: Mapped[str] = mapped_column(sa.ForeignKey("models.id", ondelete="CASCADE"), primary_key=True)
    class_index: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(sa.String(200))
    deposit_id: Mapped[str | None] = mapped_column(sa.String(36), index=True)


class RevisionRow(Base):
    """A lower part that is or was in service. 0 is the original network's; each deposit adds one."""

    __tablename__ = "revisions"

    model_id: Mapped[str] = mapped_column(sa.ForeignKey("models.id"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    lower_object_id: Mapped[str] = mapped_column(sa.ForeignKey("vault_objects.id"))
    deposit_id: Mapped[str | None] = mapped_column(sa.String(36))
    created_at: Mapped[datetime] = mapped_column(default=now)
