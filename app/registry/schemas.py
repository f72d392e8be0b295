from collections import Counter
from dataclasses import asdict
from datetime import datetime
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    FailFast,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from app.base.field_types import Reason
from app.registry.service import preprocessing_of
from app.registry.tables import Hardening, ModelRow, Original, Scrub
from lirf_core.architectures import (
    ARCHITECTURES,
    SMALL,
    ArchitectureSpec,
    check_image_size,
    check_split,
    default_split,
    has_image_size,
    warnings_of,
)
from lirf_core.class_names import normal_form
from lirf_core.images.preprocessing import ExifOrientation, Preprocessing

ClassName = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^\\\x00-\x1f\x7f]+$")]
Channel = Annotated[StrictFloat, Field(ge=0, le=1, allow_inf_nan=False)]
Deviation = Annotated[StrictFloat, Field(gt=0, le=1, allow_inf_nan=False)]


class Architecture(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Literal[ARCHITECTURES] = Field(description=SMALL)  # type: ignore[valid-type]
    width: StrictFloat = Field(
        1.0, ge=0.125, le=4, multiple_of=0.125, description="Width factor, only for -small architectures."
    )

    @model_validator(mode="after")
    def width_is_for_small_architectures(self) -> "Architecture":
        if self.width != 1.0 and not self.name.endswith("-small"):
            raise ValueError(f"width is {self.width}; only the -small architectures have a width factor")
        return self


class PreprocessingIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    height: StrictInt = Field(ge=8, le=1024, description="Pixels.")
    width: StrictInt = Field(ge=8, le=1024, description="Pixels.")
    mean: list[Channel] = Field(
        max_length=3,
        description="Mean of each channel, for pixels from 0 to 1: one number for grey images, three for RGB.",
    )
    std: list[Deviation] = Field(
        max_length=3, description="Standard deviation of each channel, for pixels from 0 to 1."
    )
    exif_orientation: ExifOrientation = Field(
        "apply",
        description="`apply` turns an image as its EXIF data say, as viewers do. `ignore` takes it as it is stored: "
        "for networks that were trained so.",
    )

    @field_validator("mean", "std", mode="before")
    @classmethod
    def pixels_are_from_0_to_1(cls, values: object, info: ValidationInfo) -> object:
        if isinstance(values, list):
            for value in values:
                if isinstance(value, int | float) and not 0 <= value <= 1:
                    raise ValueError(
                        f"{info.field_name} has the value {str(value)[:20]}, but must be from 0 to 1, because pixels "
                        "are. If yours is for pixels from 0 to 255, divide it by 255"
                    )
        return values

    @model_validator(mode="after")
    def channels_agree(self) -> "PreprocessingIn":
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise ValueError("mean and std need one number each (grey) or three each (RGB)")
        return self

    def value(self) -> Preprocessing:
        return Preprocessing(self.height, self.width, tuple(self.mean), tuple(self.std), self.exif_orientation)


class ModelCreate(BaseModel):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [
                {
                    "name": "cifar",
                    "architecture": {"name": "resnet18-small", "width": 0.5},
                    "split": "layer3",
                    "classes": [
                        "airplane",
                        "automobile",
                        "bird",
                        "cat",
                        "deer",
                        "dog",
                        "frog",
                        "horse",
                        "ship",
                        "truck",
                    ],
                    "preprocessing": {
                        "height": 32,
                        "width": 32,
                        "mean": [0.4914, 0.4822, 0.4465],
                        "std": [0.247, 0.243, 0.261],
                    },
                }
            ]
        },
    )

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$", description="Lower-case letters, digits, '.', '_' and '-'."
    )
    architecture: Architecture
    split: str | None = Field(
        None,
        max_length=64,
        description="Last module of the lower part, which deposits train, for example `layer3` of a ResNet or "
        "`features.13` of a MobileNetV2. docs/architectures.md lists the splits of each architecture. "
        "Default: the one that forgets best with a deposit module under 5 % of the network's bytes.",
    )
    classes: Annotated[list[ClassName], FailFast()] = Field(
        min_length=2,
        max_length=100_000,
        description="Class names, in the order of the network's outputs. A name with `/`, such as `T-shirt/top`, is a "
        "folder in a folder of an image archive.",
    )
    preprocessing: PreprocessingIn

    @field_validator("classes")
    @classmethod
    def names_are_unique(cls, names: list[str]) -> list[str]:
        counts = Counter(map(normal_form, names))
        if len(counts) < len(names):
            duplicates = sorted(name for name, count in counts.items() if count > 1)
            raise ValueError(f"class names are not unique: {', '.join(repr(name) for name in duplicates[:5])}")
        return names

    @field_validator("classes")
    @classmethod
    def names_can_be_folders(cls, names: list[str]) -> list[str]:
        for name in names:
            if any(part in ("", ".", "..") for part in name.split("/")):
                raise ValueError(
                    f"the class name {name!r} cannot be a folder in an image archive. Between its slashes must be "
                    "something, and not only '.' or '..'"
                )
        return names

    @field_validator("split")
    @classmethod
    def architecture_has_the_split(cls, split: str | None, info: ValidationInfo) -> str | None:
        if split is None or "architecture" not in info.data:
            return split
        check_split(info.data["architecture"].name, split)
        return split

    @field_validator("preprocessing")
    @classmethod
    def architecture_accepts_the_size(cls, preprocessing: PreprocessingIn, info: ValidationInfo) -> PreprocessingIn:
        if "architecture" in info.data:
            check_image_size(info.data["architecture"].name, preprocessing.height, preprocessing.width)
        return preprocessing

    def spec(self) -> ArchitectureSpec:
        """The architecture of the described network. A ViT gets the image size of the preprocessing."""
        name, channels = self.architecture.name, len(self.preprocessing.mean)
        if has_image_size(name):
            return ArchitectureSpec(name, len(self.classes), channels=channels, image_size=self.preprocessing.height)
        return ArchitectureSpec(name, len(self.classes), self.architecture.width, channels)

    def chosen_split(self) -> str:
        return default_split(self.architecture.name) if self.split is None else self.split


Points = Annotated[float, Field(strict=True, ge=0, le=100, allow_inf_nan=False)]
Unchanged = Field(None, description="If left out, this bound stays as it is.")


class Policy(BaseModel):
    original: Original = Field(
        description="What happens to networks from before a deposit, which know its classes. `seal` keeps them "
        "encrypted, where nobody can query them. `destroy` shreds them, including those that exist already."
    )
    needs_second_person: StrictBool = Field(
        description="If true, deposits, withdrawals, restorations, purges and changes to this policy wait until "
        "somebody with another key approves them."
    )
    max_preserved_loss: Points = Field(
        description="Percentage points of accuracy that the preserved classes may lose by one deposit. A deposit that "
        "loses more ends as `failed` and changes nothing. 100: no bound."
    )
    max_module_loss: Points = Field(
        description="Percentage points that deposited classes may lose when they are withdrawn: the classes of the new "
        "deposit, and those of each older one by it. Of each bound, a single class may clearly lose four times as much."
    )
    max_total_loss: Points = Field(
        description="Percentage points that the preserved classes, and those of each older deposit when it is "
        "withdrawn, may lose since the original network, by all deposits together."
    )
    hardening: Hardening = Field(
        description="`served`: after each deposit a worker hardens the target, so that those who have its weights find "
        "less of what was forgotten, and the hardened network answers while nothing is "
        "withdrawn. `export`: it is made, but not served. `none`: targets are not hardened."
    )

    scrub: Scrub = Field(
        description="The module of an older deposit knows the classes that are deposited after it. `purge`: when one "
        "of these is purged, a scrubbed module, which has forgotten them, takes its place. `deposit`: as soon as they "
        "are deposited, which costs accuracy. With `original: destroy`, always as soon as they are deposited."
    )


class PolicyChange(Policy):
    model_config = ConfigDict(
        extra="forbid",
        json_schema_extra={
            "examples": [{"original": "seal", "needs_second_person": True, "reason": "rule of two from November on"}]
        },
    )

    max_preserved_loss: Points | None = Unchanged  # type: ignore[assignment]
    max_module_loss: Points | None = Unchanged  # type: ignore[assignment]
    max_total_loss: Points | None = Unchanged  # type: ignore[assignment]
    hardening: Hardening | None = Field(None, description="If left out, this stays as it is.")  # type: ignore[assignment]
    scrub: Scrub | None = Field(None, description="If left out, this stays as it is.")  # type: ignore[assignment]

    reason: Reason


class Model(BaseModel):
    id: str
    name: str
    architecture: dict[str, str | int | float]
    split: str
    classes: list[str]
    preprocessing: dict[str, int | list[float] | str]
    state: Literal["awaiting_weights", "ready"]
    revision: int | None = Field(
        description="The revision in service. 0 is the original network; each deposit adds one."
    )
    created_at: datetime
    created_by: str
    warnings: list[str] = Field(description="Known weaknesses of deposits on this architecture, as measured.")

    @classmethod
    def described(cls, row: ModelRow) -> dict[str, Any]:
        """The fields of a row, by name."""
        return {
            "id": row.id,
            "name": row.name,
            "architecture": row.architecture,
            "split": row.split,
            "classes": row.class_names,
            "preprocessing": asdict(preprocessing_of(row)),
            "state": "awaiting_weights" if row.revision is None else "ready",
            "revision": row.revision,
            "created_at": row.created_at,
            "created_by": row.created_by,
            "warnings": warnings_of(str(row.architecture["name"])),
        }
