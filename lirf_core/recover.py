"""Withdraw: the recover network of eq. 8, assembled without data and without training."""

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from lirf_core import losses
from lirf_core.losses import Joining, ModuleAnswer
from lirf_core.network import SplitNetwork
from lirf_core.quantisation import Grid


class ForeignUpperPart(ValueError):
    """A deposit module was given to a network with another upper part than the one it was trained with."""


class OverlappingModules(ValueError):
    """Two deposit modules of one recover network hold the same class."""


class DepositModule(nn.Module):
    """T_r: the pruned lower part, the class indices it answers for, and the digest of the upper part it belongs to.

    `joining` is how its logits are joined with the target's: see `losses.join`. `weight` counts in a mean of
    logits in which the target's is 1. `grid` is what its parameters lie on.
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
    """Eq. 8 for any number of modules; the upper part runs once, over the joined batch.

    preserved: the class indices that the target answers for. Raises `ForeignUpperPart` or `OverlappingModules` when
    the parts do not belong together.
    """

    def __init__(
        self, target: SplitNetwork, modules: Sequence[DepositModule], upper_digest: str, preserved: Sequence[int]
    ) -> None:
        super().__init__()
        seen: set[int] = set()
        for module in modules:
            if module.upper_digest != upper_digest:
                raise ForeignUpperPart(
                    f"the deposit module of classes {list(module.classes)} belongs to the upper part "
                    f"{module.upper_digest[:12]}, not to {upper_digest[:12]}; "
                    "withdraw it on the model it was deposited from."
                )
            if doubled := seen & set(module.classes):
                raise OverlappingModules(f"classes {sorted(doubled)} are in more than one of the deposit modules.")
            seen |= set(module.classes)
        self.target = target
        self.deposit_modules = nn.ModuleList(modules)
        self.module_classes = [list(module.classes) for module in modules]
        self.module_weights = [module.weight for module in modules]
        self.preserved = list(preserved)
        joinings = {module.joining for module in modules}
        # Modules that were made for different ways of joining have one in common: the equation as written.
        self.joining: Joining = joinings.pop() if len(joinings) == 1 else "eq8"

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W), normalised. Returns logits (B, classes)."""
        [logits] = answers([self], [images])
        return logits

    def join(self, target_logits: Tensor, module_logits: Sequence[Tensor]) -> Tensor:
        """What `forward` makes of its parts' logits, each (B, classes), the modules' in their order."""
        answers = map(ModuleAnswer, module_logits, self.module_classes, self.module_weights)
        return losses.join(target_logits, list(answers), self.preserved, self.joining)


def answers(networks: Sequence[RecoverNetwork], images: Sequence[Tensor]) -> list[Tensor]:
    """Each network's logits (B_i, classes) of its own images (B_i, C, H, W), normalised.

    The networks are of one target, whose lower part runs once over all images. A deposit module runs once over the
    images of all networks that have it, and the upper part once over everything.
    """
    [target] = {network.target for network in networks}
    askers: dict[DepositModule, list[int]] = {}
    for number, network in enumerate(networks):
        for module in network.deposit_modules:
            askers.setdefault(cast(DepositModule, module), []).append(number)
    features = [target.lower(torch.cat([*images]))]
    features += [module(torch.cat([images[i] for i in numbers])) for module, numbers in askers.items()]
    runs = [images, *([images[i] for i in numbers] for numbers in askers.values())]
    logits = iter(target.upper(torch.cat(features)).float().split([len(part) for run in runs for part in run]))
    of_target = [next(logits) for _ in networks]
    of_modules: list[dict[DepositModule, Tensor]] = [{} for _ in networks]
    for module, numbers in askers.items():
        for number in numbers:
            of_modules[number][module] = next(logits)
    return [
        network.join(whole, [own[cast(DepositModule, module)] for module in network.deposit_modules])
        for network, whole, own in zip(networks, of_target, of_modules, strict=True)
    ]
