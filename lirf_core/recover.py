"""Withdrawal: the recover network of eq. 8, assembled without data and without training."""

import copy
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lirf_core.class_rows import ABSENT_LOGIT, Rows, split_last
from lirf_core.config import Joining
from lirf_core.joining import ModuleAnswer, join
from lirf_core.network import SplitNetwork
from lirf_core.quantisation import Grid


class ForeignUpperPart(ValueError):
    """The deposit module was trained with another upper part."""


class OverlappingModules(ValueError):
    """Two deposit modules of one recover network answer for the same class."""


class DepositModule(nn.Module):
    """T_r: a pruned lower part, the class indices that it answers for, and the digest of its upper part.

    `joining` says how its logits are joined with the target's: see `joining.join`. `weight` is its weight in a mean of
    logits in which the target has weight 1. Its parameters lie on `grid`. `rows` are the last layer's of its classes;
    None in a module of an earlier version, whose upper part still has them. `known`: the classes that it has learnt to
    tell apart, also those that were deposited after it; None in a module of an earlier version, which was scrubbed.
    """

    row_weight: Tensor
    row_bias: Tensor

    def __init__(
        self,
        lower: nn.Module,
        classes: Sequence[int],
        upper_digest: str,
        joining: Joining = "averaged",
        weight: float = 1.0,
        grid: Grid | None = None,
        rows: Rows | None = None,
        known: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.lower = lower
        self.classes = tuple(classes)
        self.upper_digest = upper_digest
        self.joining: Joining = joining
        self.weight = weight
        self.grid = grid or Grid(16)
        self.known = None if known is None else tuple(known)
        self.has_rows = rows is not None
        if rows is not None:
            assert rows.classes == self.classes
            self.register_buffer("row_weight", rows.weight)
            self.register_buffer("row_bias", rows.bias)

    @property
    def rows(self) -> Rows | None:
        return Rows(self.classes, self.row_weight, self.row_bias) if self.has_rows else None

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W). Returns features at the split, (B, C', H', W')."""
        features: Tensor = self.lower(images)
        return features

    def with_rows(self, rows: Rows) -> "DepositModule":
        """The same module with these rows."""
        return self._with(self.lower, self.grid, rows, self.known)

    def with_lower(self, lower: nn.Module, grid: Grid | None = None) -> "DepositModule":
        """The same module with another lower part, on the same grid unless another one is given."""
        return self._with(lower, grid or self.grid, self.rows, self.known)

    def without(self, classes: Collection[int]) -> "DepositModule":
        """The same module, which no longer knows these classes of other deposits."""
        known = None if self.known is None else [index for index in self.known if index not in classes]
        return self._with(self.lower, self.grid, self.rows, known)

    def only(self, classes: Sequence[int]) -> "DepositModule":
        """A copy that answers for these of its classes only. It still knows the others: see `deposit.scrub`."""
        own = sorted(classes)
        lower, rows = copy.deepcopy(self.lower), self.rows and self.rows.of(own)
        return DepositModule(lower, own, self.upper_digest, self.joining, self.weight, self.grid, rows, self.known)

    def _with(self, lower: nn.Module, grid: Grid, rows: Rows | None, known: Sequence[int] | None) -> "DepositModule":
        return DepositModule(lower, self.classes, self.upper_digest, self.joining, self.weight, grid, rows, known)


class RecoverNetwork(nn.Module):
    """Eq. 8 for any number of modules. The upper part runs once, over the features of all parts.

    preserved: the class indices that the target answers for, unless a module does. Raises `ForeignUpperPart` or
    `OverlappingModules` if the parts do not belong together.
    """

    def __init__(
        self, target: SplitNetwork, modules: Sequence[DepositModule], upper_digest: str, preserved: Sequence[int]
    ) -> None:
        super().__init__()
        classes: set[int] = set()
        for module in modules:
            if module.upper_digest != upper_digest:
                raise ForeignUpperPart(
                    f"The deposit module of classes {list(module.classes)} belongs to the upper part "
                    f"{module.upper_digest[:12]}, not to {upper_digest[:12]}. "
                    "Withdraw it on the model that it was deposited from."
                )
            if shared := classes & set(module.classes):
                raise OverlappingModules(f"More than one of the deposit modules answers for classes {sorted(shared)}.")
            classes |= set(module.classes)
        self.target = target
        self.deposit_modules = nn.ModuleList(modules)
        self.module_classes = [list(module.classes) for module in modules]
        self.module_weights = [module.weight for module in modules]
        self.module_known = [module.known for module in modules]
        self.answering = frozenset(classes)  # for which a module answers
        self.preserved = [index for index in preserved if index not in classes]
        joinings = {module.joining for module in modules}
        # Modules that were made for different joinings have one in common: the equation as written.
        self.joining: Joining = joinings.pop() if len(joinings) == 1 else "eq8"

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W), normalised. Returns logits (B, classes)."""
        [logits] = answers([self], [images])
        return logits

    def join(self, target_logits: Tensor, module_logits: Sequence[Tensor]) -> Tensor:
        """Join the logits of the target and of the modules, in their order; each (B, classes), as is the result."""
        answers = map(ModuleAnswer, module_logits, self.module_classes, self.module_weights, self.module_known)
        return join(target_logits, list(answers), self.preserved, self.joining)


def answers(networks: Sequence[RecoverNetwork], images: Sequence[Tensor]) -> list[Tensor]:
    """Each network's logits (B_i, classes) of its own images (B_i, C, H, W), normalised.

    All networks share one target, whose lower part runs once over all images. A deposit module runs once over the
    images of all networks that have it, and the upper part runs once over all features, with the rows of all modules in
    place. A network that has not the module of a class answers for it as the target does: if that has no row,
    `ABSENT_LOGIT`.
    """
    [target] = {network.target for network in networks}
    users: dict[DepositModule, list[int]] = {}
    for number, network in enumerate(networks):
        for module in network.deposit_modules:
            users.setdefault(cast(DepositModule, module), []).append(number)
    features = [target.lower(torch.cat([*images]))]
    features += [module(torch.cat([images[i] for i in numbers])) for module, numbers in users.items()]
    runs = [images, *([images[i] for i in numbers] for numbers in users.values())]
    upper, lent = _with_rows(target, users)
    logits = iter(torch.split(upper(torch.cat(features)).float(), [len(part) for run in runs for part in run]))
    of_target = [_without(next(logits), lent - network.answering) for network in networks]
    of_modules: list[dict[DepositModule, Tensor]] = [{} for _ in networks]
    for module, numbers in users.items():
        for number in numbers:
            of_modules[number][module] = next(logits)
    return [
        network.join(target_logits, [module_logits[cast(DepositModule, module)] for module in network.deposit_modules])
        for network, target_logits, module_logits in zip(networks, of_target, of_modules, strict=True)
    ]


def _with_rows(
    target: SplitNetwork, modules: Iterable[DepositModule]
) -> tuple[Callable[[Tensor], Tensor], frozenset[int]]:
    """The target's upper part with the rows that it lacks and these modules have, and the classes of these rows."""
    lent = [rows for module in modules if (rows := module.rows) and not target.absent.isdisjoint(rows.classes)]
    if not lent:
        return target.upper, frozenset()
    trunk, last = split_last(target.upper)
    # One product of the same shape as in a network with all rows gives the same logits, to the last bit.
    weight, bias = last.weight.clone(), last.bias.clone()
    for rows in lent:
        weight[list(rows.classes)], bias[list(rows.classes)] = rows.weight, rows.bias
    return lambda features: F.linear(trunk(features), weight, bias), frozenset().union(*(rows.classes for rows in lent))


def _without(logits: Tensor, classes: Collection[int]) -> Tensor:
    return (
        logits.index_fill(1, torch.tensor(sorted(classes), device=logits.device), ABSENT_LOGIT) if classes else logits
    )
