"""Where the arithmetic runs and in which precision."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

ModuleT = TypeVar("ModuleT", bound=nn.Module)


@dataclass(frozen=True)
class Compute:
    """A device and how it is used best. `autocast_type` is None where full float32 is used."""

    device: torch.device
    autocast_type: torch.dtype | None
    memory_format: torch.memory_format

    @classmethod
    def pick(cls, name: str = "auto") -> "Compute":
        """`name` is `auto`, `cpu`, `cuda` or `cuda:N`. CUDA runs in bf16 (where it has it) and channels-last.

        Raises RuntimeError when CUDA is asked for and there is none.
        """
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        device = torch.device(name)
        if device.type != "cuda":
            return cls(device, None, torch.contiguous_format)
        if not torch.cuda.is_available():
            raise RuntimeError(f"device '{name}' was asked for, but torch sees no CUDA device; use 'cpu' or 'auto'.")
        autocast_type = torch.bfloat16 if torch.cuda.is_bf16_supported() else None
        return cls(device, autocast_type, torch.channels_last)

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(
            self.device.type, dtype=self.autocast_type or torch.bfloat16, enabled=self.autocast_type is not None
        )

    def place(self, module: ModuleT) -> ModuleT:
        """Moves a module to the device, in its memory format."""
        return module.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]
