"""Checkpoints: a training that was stopped goes on as if it had not been.

A safetensors file of format `lirf-checkpoint/1`: the networks that learn, their optimiser, what removal has learnt, the
state of the random numbers, and the order in which the epoch shows its images. Proxy images are not in it: they are
made again from the deposit images.
"""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Generator, Tensor
from torch.optim import Optimizer

from lirf_core.artifacts import metadata_of

if TYPE_CHECKING:
    from lirf_core.training import Trainer

FORMAT = "lirf-checkpoint/1"

State = dict[str, Tensor]


class ForeignCheckpoint(ValueError):
    """The checkpoint is not of this training."""


@dataclass(frozen=True)
class Position:
    """How many steps are done, and the numbers of the images in the order of the epoch, (N,)."""

    step: int
    order: Tensor


def take(trainer: "Trainer", generator: Generator, at: Position, steps: int) -> bytes:
    """A checkpoint `at` one of so many steps; `generator` gives the training its random numbers."""
    rate: float = trainer.optimiser.param_groups[0]["lr"]
    told = {"format": FORMAT, "step": at.step, "steps": steps, "learning_rate": rate.hex()}
    state = {
        **_under("network", trainer.learning.state_dict()),
        **_under("optimiser", optimiser_state(trainer.optimiser)),
        **_under("removal", trainer.removal.state()),
        "generator": generator.get_state(),
        "order": at.order,
    }
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return safetensors.torch.save(tensors, {"checkpoint": json.dumps(told)})


def restore(trainer: "Trainer", generator: Generator, checkpoint: bytes, steps: int, images: int) -> Position:
    """Brings a prepared trainer and its generator to where they were. Raises `ForeignCheckpoint`."""
    try:
        told = json.loads(metadata_of(checkpoint)["checkpoint"])
        state = safetensors.torch.load(checkpoint)
        if (told["format"], told["steps"], len(state["order"])) != (FORMAT, steps, images):
            raise ForeignCheckpoint(f"the checkpoint is of {told['steps']} steps on {len(state['order'])} images.")
        trainer.learning.load_state_dict(_of("network", state))
        restore_optimiser(trainer.optimiser, _of("optimiser", state))
        trainer.removal.restore(_of("removal", state))
        generator.set_state(state["generator"])
        trainer.learning_rates.load_state_dict({"last_epoch": told["step"], "_step_count": told["step"] + 1})
        trainer.optimiser.param_groups[0]["lr"] = float.fromhex(told["learning_rate"])
    except torch.OutOfMemoryError:
        raise
    except (KeyError, TypeError, RuntimeError, SafetensorError, json.JSONDecodeError) as error:
        raise ForeignCheckpoint("the checkpoint is of another training, or of another version.") from error
    return Position(told["step"], state["order"])


def optimiser_state(optimiser: Optimizer) -> State:
    """What it remembers of each parameter, by the parameter's number and the name of the memory."""
    remembered = optimiser.state_dict()["state"]
    return {
        f"{number}.{name}": tensor
        for number, memory in remembered.items()
        for name, tensor in memory.items()
        if tensor is not None
    }


def restore_optimiser(optimiser: Optimizer, state: State) -> None:
    """Takes back an `optimiser_state`."""
    whole = optimiser.state_dict()
    for name, tensor in state.items():
        number, _, memory = name.partition(".")
        whole["state"].setdefault(int(number), {})[memory] = tensor
    optimiser.load_state_dict(whole)


def _under(prefix: str, state: State) -> State:
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def _of(prefix: str, state: State) -> State:
    return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in state.items() if name.startswith(f"{prefix}/")}
