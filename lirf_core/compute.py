"""The device that computes, and its precision."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, nn

from lirf_core.images.preprocessing import Preprocessing

ModuleT = TypeVar("ModuleT", bound=nn.Module)


class OutOfMemory(RuntimeError):
    """The work needs more memory than the device has."""


@contextmanager
def memory_errors() -> Iterator[None]:
    """Raise `OutOfMemory` for each error by which PyTorch or Python reports that memory ran out."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError) as error:
        raise OutOfMemory(str(error)) from error
    except RuntimeError as error:
        # On a CPU, PyTorch has no exception type for this, only the message.
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise OutOfMemory(str(error)) from error
        raise


@dataclass(frozen=True)
class Compute:
    """A device and how to use it best. `autocast_type` None means float32 throughout.

    The memory format is channels-last everywhere, because oneDNN and tensor cores read images in that order.
    """

    device: torch.device
    autocast_type: torch.dtype | None
    memory_format: torch.memory_format = torch.channels_last

    @classmethod
    def for_training(cls, name: str = "auto") -> "Compute":
        """bf16 if the device multiplies it natively, which halves the time of a step. name: see `_device`."""
        device = _device(name)
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _cpu_has_bf16()
        return cls(device, torch.bfloat16 if has_bf16 else None)

    @classmethod
    def for_inference(cls, name: str = "auto") -> "Compute":
        """float32 on a CPU, so that answers match any other float32 runtime; on CUDA the same as for training."""
        device = _device(name)
        return cls.for_training(name) if device.type == "cuda" else cls(device, None)

    def autocast(self) -> AbstractContextManager[None]:
        return torch.autocast(
            self.device.type, dtype=self.autocast_type or torch.bfloat16, enabled=self.autocast_type is not None
        )

    def place(self, module: ModuleT) -> ModuleT:
        """Move a module to the device, in the memory format."""
        return module.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]

    def inputs(self, images: Tensor, preprocessing: Preprocessing) -> Tensor:
        """images: uint8 (B, C, H, W). Returns them normalised, as float32 on the device, in the memory format."""
        normalised = preprocessing.normalise(images.to(self.device, non_blocking=True))
        return normalised.contiguous(memory_format=self.memory_format)


def _device(name: str) -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:N`. Raises RuntimeError if the name is CUDA's and there is no CUDA device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError(f"There is no device '{name}': PyTorch finds no CUDA device. Use 'cpu' or 'auto'.")
    return device


def _cpu_has_bf16() -> bool:
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
