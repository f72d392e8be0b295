"""`lirf-checkpoint/1`, the file format of a training's checkpoint.

A safetensors file. Its metadata has one entry, `checkpoint`: a JSON object with `format`, `step` (how many are done),
`steps` (of the whole training) and `learning_rate` (of the next step, as a hexadecimal float, so that no bit is lost).
Its tensors are the training's state: see `Trainer.state`.
"""

import json
from dataclasses import dataclass

import safetensors.torch
from safetensors import SafetensorError

from lirf_core.artifacts import metadata_of
from lirf_core.state import State

FORMAT = "lirf-checkpoint/1"


class ForeignCheckpoint(ValueError):
    """The checkpoint belongs to another training, or to another version of the format."""

    def __init__(self, message: str = "The checkpoint belongs to another training or to another version.") -> None:
        super().__init__(message)


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A training after `step` of its `steps`. `learning_rate` is that of the next step."""

    step: int
    steps: int
    learning_rate: float
    state: State


def dump(checkpoint: Checkpoint) -> bytes:
    """Bytes of format `lirf-checkpoint/1`."""
    metadata = {
        "format": FORMAT,
        "step": checkpoint.step,
        "steps": checkpoint.steps,
        "learning_rate": checkpoint.learning_rate.hex(),
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in checkpoint.state.items()}
    return safetensors.torch.save(tensors, {"checkpoint": json.dumps(metadata)})


def load(stored: bytes) -> Checkpoint:
    """The inverse of `dump`. Raises `ForeignCheckpoint` if the bytes have another format."""
    try:
        metadata = json.loads(metadata_of(stored)["checkpoint"])
        learning_rate = float.fromhex(metadata["learning_rate"])
        checkpoint = Checkpoint(metadata["step"], metadata["steps"], learning_rate, safetensors.torch.load(stored))
        is_of_this_format = metadata["format"] == FORMAT
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise ForeignCheckpoint from error
    if not is_of_this_format:
        raise ForeignCheckpoint
    return checkpoint
