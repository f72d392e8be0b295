"""Withdrawal: the recover network of eq. 8, assembled without data and without training."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lirf_core import losses
from lirf_core.config import Joining
from lirf_core.losses import ModuleAnswer
from lirf_core.network import SplitNetwork
from lirf_core.quantisation import Grid


class ForeignUpperPart(ValueError):
    """The deposit module was trained with another upper part."""


class OverlappingModules(ValueError):
    """Two deposit modules of one recover network answer for the same class."""


class DepositModule(nn.Module):
    """T_r: a pruned lower part, the class indices that it answers for, and the digest of its upper part.

    `joining` says how its logits are joined with the target's: see `losses.join`. `weight` is its weight in a mean of
    logits in which the target has weight 1. Its parameters lie on `grid`.
    """

    def __init__(
        self,
        lower: nn.Module,
        classes: Sequence[int],
        upper_digest: str,
        joining: Joining = "averaged",
        weight: float = 1.0,
        grid: Grid | None = None,
    ) -> None:
        super().__init__()
        self.lower = lower
        self.classes = tuple(classes)
        self.upper_digest = upper_digest
        self.joining: Joining = joining
        self.weight = weight
        self.grid = grid or Grid(16)

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W). Returns features at the split, (B, C', H', W')."""
        features: Tensor = self.lower(images)
        return features


class RecoverNetwork(nn.Module):
    """Eq. 8 for any number of modules. The upper part runs once, over the features of all parts.

    preserved: the class indices that the target answers for. Raises `ForeignUpperPart` or `OverlappingModules` if the
    parts do not belong together.
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
        self.preserved = list(preserved)
        joinings = {module.joining for module in modules}
        # Modules that were made for different joinings have one in common: the equation as written.
        self.joining: Joining = joinings.pop() if len(joinings) == 1 else "eq8"

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W), normalised. Returns logits (B, classes)."""
        [logits] = answers([self], [images])
        return logits

    def join(self, target_logits: Tensor, module_logits: Sequence[Tensor]) -> Tensor:
        """Join the logits of the target and of the modules, in their order; each (B, classes), as is the result."""
        answers = map(ModuleAnswer, module_logits, self.module_classes, self.module_weights)
        return losses.join(target_logits, list(answers), self.preserved, self.joining)


def answers(networks: Sequence[RecoverNetwork], images: Sequence[Tensor]) -> list[Tensor]:
    """Each network's logits (B_i, classes) of its own images (B_i, C, H, W), normalised.

    All networks share one target, whose lower part runs once over all images. A deposit module runs once over the
    images of all networks that have it, and the upper part runs once over all features.
    """
    [target] = {network.target for network in networks}
    users: dict[DepositModule, list[int]] = {}
    for number, network in enumerate(networks):
        for module in network.deposit_modules:
            users.setdefault(cast(DepositModule, module), []).append(number)
    features = [target.lower(torch.cat([*images]))]
    features += [module(torch.cat([images[i] for i in numbers])) for module, numbers in users.items()]
    runs = [images, *([images[i] for i in numbers] for numbers in users.values())]
    logits = iter(target.upper(torch.cat(features)).float().split([len(part) for run in runs for part in run]))
    of_target = [next(logits) for _ in networks]
    of_modules: list[dict[DepositModule, Tensor]] = [{} for _ in networks]
    for module, numbers in users.items():
        for number in numbers:
            of_modules[number][module] = next(logits)
    return [
        network.join(target_logits, [module_logits[cast(DepositModule, module)] for module in network.deposit_modules])
        for network, target_logits, module_logits in zip(networks, of_target, of_modules, strict=True)
    ]
