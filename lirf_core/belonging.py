"""Which network a stored part belongs to. Importing this needs no torch."""

import json
from dataclasses import dataclass
from typing import Literal

from lirf_core.architectures import ArchitectureSpec

FORMAT = "lirf/1"

Part = Literal["upper", "trunk", "rows", "lower", "module", "hardened"]


@dataclass(frozen=True)
class Belonging:
    """Which network a stored part belongs to."""

    spec: ArchitectureSpec
    split: str
    upper_digest: str

    def metadata(self, part: Part) -> dict[str, str]:
        """The metadata that a stored part has in every case."""
        return {
            "format": FORMAT,
            "part": part,
            "architecture": json.dumps(self.spec.description(), sort_keys=True),
            "split": self.split,
            "upper_digest": self.upper_digest,
        }
