"""The state of a training as a flat dictionary of named tensors, as a checkpoint stores it."""

from torch import Tensor
from torch.optim import SGD, Optimizer

State = dict[str, Tensor]


def prefixed(prefix: str, state: State) -> State:
    """The state with `prefix/` before each name."""
    return {f"{prefix}/{name}": tensor for name, tensor in state.items()}


def part_of(state: State, prefix: str) -> State:
    """The inverse of `prefixed`: the tensors whose names begin with `prefix/`, without it."""
    return {name.removeprefix(f"{prefix}/"): tensor for name, tensor in state.items() if name.startswith(f"{prefix}/")}


def optimiser_state(optimiser: Optimizer) -> State:
    """What an optimiser remembers of each parameter, under `number of the parameter.name of the memory`."""
    return {
        f"{number}.{name}": tensor
        for number, memory in optimiser.state_dict()["state"].items()
        for name, tensor in memory.items()
        if tensor is not None
    }


def restore_optimiser(optimiser: Optimizer, state: State) -> None:
    """Load an `optimiser_state`. Raises `KeyError` if an optimiser of another kind remembered it."""
    known = ("momentum_buffer",) if isinstance(optimiser, SGD) else ("step", "exp_avg", "exp_avg_sq")
    if foreign := {key.partition(".")[2] for key in state} - {*known}:
        raise KeyError(f"{type(optimiser).__name__} does not remember {sorted(foreign)}.")
    whole = optimiser.state_dict()
    for key, tensor in state.items():
        number, _, name = key.partition(".")
        whole["state"].setdefault(int(number), {})[name] = tensor
    optimiser.load_state_dict(whole)
