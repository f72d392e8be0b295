"""Withdraw: the recover network of eq. 8, assembled without data and without training."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lirf_core.network import SplitNetwork


class ForeignUpperPart(ValueError):
    """A deposit module was given to a network with another upper part than the one it was trained with."""


class OverlappingModules(ValueError):
    """Two deposit modules of one recover network hold the same class."""


class DepositModule(nn.Module):
    """T_r: the pruned lower part, the class indices it answers for, and the digest of the upper part it belongs to."""

    def __init__(self, lower: nn.Module, classes: Sequence[int], upper_digest: str) -> None:
        super().__init__()
        self.lower = lower
        self.classes = tuple(classes)
        self.upper_digest = upper_digest

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W). Returns features at the split, (B, C', H', W')."""
        features: Tensor = self.lower(images)
        return features


class RecoverNetwork(nn.Module):
    """Eq. 8 for any number of modules; the upper part runs once, over the joined batch.

    Raises `ForeignUpperPart` or `OverlappingModules` when the parts do not belong together.
    """

    def __init__(self, target: SplitNetwork, modules: Sequence[DepositModule], upper_digest: str) -> None:
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

    def forward(self, images: Tensor) -> Tensor:
        """images: (B, C, H, W), normalised. Returns logits (B, classes)."""
        parts = [self.target.lower(images), *(module(images) for module in self.deposit_modules)]
        target_logits, *module_logits = self.target.upper(torch.cat(parts)).split(images.shape[0])
        logits: Tensor = target_logits.clone()
        for module, answers in zip(self.deposit_modules, module_logits, strict=True):
            assert isinstance(module, DepositModule)
            selected = list(module.classes)
            logits[:, selected] = answers[:, selected]
        return logits
