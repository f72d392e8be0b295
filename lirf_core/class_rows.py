"""The last layer's rows: a weight vector and a bias for each class. Those of deposited classes travel with modules."""

from collections import OrderedDict
from collections.abc import Collection, Iterable
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

    def digests(self) -> Tensor:
        """uint8 (D, 32): SHA-256 of each row's bytes, weights before bias."""
        whole = torch.cat([self.weight, self.bias[:, None]], dim=1).detach().cpu().contiguous()
        rows = [sha256(row.view(torch.uint8).numpy()).digest() for row in whole]
        return torch.frombuffer(bytearray(b"".join(rows)), dtype=torch.uint8).view(-1, 32)


def split_last(upper: nn.Module) -> tuple[nn.Sequential, nn.Linear]:
    """(trunk, last layer), with upper(x) = last(trunk(x)). Both share the upper part's modules. Raises `NoRows`."""
    children = OrderedDict(upper.named_children() if isinstance(upper, nn.Sequential) else ())
    if not children:
        raise NoRows("The upper part does not end with a linear layer, so it has no rows of classes.")
    name, end = children.popitem()
    if isinstance(end, nn.Linear):
        if end.bias is None:
            raise NoRows("The last layer has no bias, so a row that is not there cannot be told from others.")
        return nn.Sequential(children), end
    children[name], last = split_last(end)
    return nn.Sequential(children), last


def last_layer_name(upper: nn.Module) -> str:
    """The name of the last layer, such as `fc`. Raises `NoRows`."""
    _, last = split_last(upper)
    [name] = (name for name, module in upper.named_modules() if module is last)
    return str(name)


def present(network: SplitNetwork) -> list[int]:
    """The classes whose rows the network has, in ascending order. Raises `NoRows`."""
    _, last = split_last(network.upper)
    return [index for index in range(last.out_features) if index not in network.absent]


def take(network: SplitNetwork, classes: Collection[int]) -> Rows:
    """A copy of the rows of these classes, which the network must have. Raises `NoRows`."""
    assert network.absent.isdisjoint(classes)
    _, last = split_last(network.upper)
    indices = list(classes)
    return Rows(tuple(indices), last.weight.detach()[indices].clone(), last.bias.detach()[indices].clone())


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


def renew(network: SplitNetwork) -> None:
    """Give the network a row of zeros for each class that it has none of, in place, so that it can learn the class."""
    if network.absent:
        _, last = split_last(network.upper)
        indices, features = tuple(sorted(network.absent)), last.in_features
        put_back(network, [Rows(indices, torch.zeros(len(indices), features), torch.zeros(len(indices)))])
