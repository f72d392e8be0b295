"""The last layer's rows: a weight vector and a bias for each class. Those of deposited classes travel with modules.

A network lacks rows in one of two ways. `remove` leaves the layer's shape as it is and marks the rows as absent: so
networks are stored and served, and their other logits do not change. `without_rows` makes the layer smaller: so a
network is trained that never has the rows. `spread` leads from the second way to the first, `renew` gives absent rows
new values, and `with_rows` does both.
"""

import copy
from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from hashlib import sha256

import torch
from torch import Tensor, nn

from lirf_core.network import SplitNetwork

# The bias, and so the logit, of a row that is not there; its weights are 0. The other logits are the same, to the last
# bit, as with the row. bfloat16 has no lower finite number, and float32's lowest would become -inf in bfloat16.
ABSENT_LOGIT = torch.finfo(torch.bfloat16).min


class NoRows(ValueError):
    """The upper part does not end with a linear layer that has a bias."""


@dataclass(frozen=True, eq=False)
class Rows:
    """weight: (D, F) and bias: (D,) of the last layer, for these class indices, in their order."""

    classes: tuple[int, ...]
    weight: Tensor
    bias: Tensor

    def of(self, classes: Sequence[int]) -> "Rows":
        """Those of some of its classes, in their order."""
        places = [self.classes.index(index) for index in classes]
        return Rows(tuple(classes), self.weight[places], self.bias[places])

    def digests(self) -> Tensor:
        """uint8 (D, 32): SHA-256 of each row's bytes, weights before bias."""
        whole = torch.cat([self.weight, self.bias[:, None]], dim=1).detach().cpu().contiguous()
        rows = [sha256(row.view(torch.uint8).numpy()).digest() for row in whole]
        return torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).view(-1, 32)


def last_layer(upper: nn.Module) -> nn.Linear:
    """The last linear layer. Raises `NoRows` if there is none."""
    layers = [module for module in upper.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise NoRows("The upper part has no linear layer, so it has no rows of classes.")
    return layers[-1]


def split_last(upper: nn.Module) -> tuple[nn.Sequential, nn.Linear]:
    """(trunk, last layer), with upper(x) = last(trunk(x)). Both share the upper part's modules. Raises `NoRows`."""
    last = last_layer(upper)
    if last.bias is None:
        raise NoRows("The last layer has no bias, so a row that is not there cannot be told from others.")
    return _trunk(upper, last), last


def _trunk(part: nn.Module, last: nn.Linear) -> nn.Sequential:
    children = OrderedDict(part.named_children() if isinstance(part, nn.Sequential) else ())
    if not children:
        raise NoRows("The upper part does not end with a linear layer, so it has no rows of classes.")
    name, end = children.popitem()
    if end is not last:
        children[name] = _trunk(end, last)
    return nn.Sequential(children)


def last_layer_name(upper: nn.Module) -> str:
    """The name of the last layer, such as `fc`. Raises `NoRows`."""
    _, last = split_last(upper)
    [name] = (name for name, module in upper.named_modules() if module is last)
    return str(name)


def present(network: SplitNetwork) -> list[int]:
    """The classes whose rows the network has, in ascending order. Raises `NoRows`."""
    _, last = split_last(network.upper)
    return [index for index, bias in enumerate(last.bias.tolist()) if bias > ABSENT_LOGIT]


def take(network: SplitNetwork, classes: Collection[int]) -> Rows:
    """A copy of the rows of these classes, which the network must have. Raises `NoRows`."""
    assert network.absent.isdisjoint(classes)
    _, last = split_last(network.upper)
    indices = list(classes)
    return Rows(tuple(indices), last.weight.detach()[indices].clone(), last.bias.detach()[indices].clone())


def all_digests(network: SplitNetwork) -> Tensor:
    """uint8 (classes, 32): `Rows.digests` of every row, also of those that are absent. Raises `NoRows`."""
    _, last = split_last(network.upper)
    return Rows(tuple(range(last.out_features)), last.weight.detach(), last.bias.detach()).digests()


@torch.no_grad()
def put_back(network: SplitNetwork, rows: Iterable[Rows]) -> None:
    """Give the network these rows, in place. Raises `NoRows`."""
    _, last = split_last(network.upper)
    for own in rows:
        indices = list(own.classes)
        last.weight[indices], last.bias[indices] = own.weight.to(last.weight), own.bias.to(last.bias)
        network.absent -= set(indices)


@torch.no_grad()
def remove(network: SplitNetwork, classes: Collection[int]) -> None:
    """Overwrite the rows of these classes, in place. Raises `NoRows`."""
    _, last = split_last(network.upper)
    indices = sorted(classes)
    last.weight[indices], last.bias[indices] = 0.0, ABSENT_LOGIT
    network.absent |= set(indices)


@torch.no_grad()
def renew(network: SplitNetwork) -> None:
    """Give the network a row for each class that it has none of, in place, so that it can learn the class.

    The new rows are the mean of the others, which says nothing of their classes.
    """
    if network.absent:
        _, last = split_last(network.upper)
        indices, own = tuple(sorted(network.absent)), present(network)
        weight, bias = last.weight[own].mean(0), last.bias[own].mean(0)
        put_back(network, [Rows(indices, weight.expand(len(indices), -1), bias.expand(len(indices)))])


def without_rows(network: SplitNetwork, kept: Collection[int]) -> SplitNetwork:
    """A copy whose last layer has only the rows of the classes `kept`, in ascending order."""
    smaller = copy.deepcopy(network)
    rows = sorted(kept)
    last = last_layer(smaller.upper)
    _set_parameters(last, last.weight.detach()[rows], None if last.bias is None else last.bias.detach()[rows])
    smaller.absent = frozenset()
    return smaller


def spread(network: SplitNetwork, answered: Sequence[int], classes: int) -> SplitNetwork:
    """The inverse of `without_rows`: a copy whose last layer has `classes` rows, absent but for those of `answered`.

    answered: the class of each row that `network` has, ascending. Raises `NoRows`.
    """
    larger = copy.deepcopy(network)
    _, last = split_last(larger.upper)
    own = Rows(tuple(answered), last.weight.detach(), last.bias.detach())
    _set_parameters(last, last.weight.new_zeros(classes, last.in_features), last.bias.new_zeros(classes))
    remove(larger, range(classes))
    put_back(larger, [own])
    return larger


def with_rows(network: SplitNetwork, answered: Sequence[int], classes: int) -> SplitNetwork:
    """A copy that has a row for each of `classes` classes; the new ones say nothing. See `spread` and `renew`."""
    larger = spread(network, answered, classes)
    renew(larger)
    return larger


def _set_parameters(layer: nn.Linear, weight: Tensor, bias: Tensor | None) -> None:
    layer.weight = nn.Parameter(weight, layer.weight.requires_grad)
    if bias is not None:
        layer.bias = nn.Parameter(bias, layer.bias.requires_grad)
    layer.out_features = len(weight)
