"""Removal in the representation: a linear probe is trained beside the target, and the target learns to tell it nothing.

Logits can be pushed down by a lower part that still tells the deposited classes apart in the last layer's features.
(Domain confusion of Tzeng et al., 2015, with the deposited classes for domains.)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lirf_core.features import classifier
from lirf_core.network import SplitNetwork
from lirf_core.state import optimiser_state, restore_optimiser

LEARNING_RATE = 0.003
STEPS = 3  # of the probe for each step of the target: an adversary that lags teaches little


class ProbeAdversary:
    """Multinomial logistic regression of the deposited classes on the last layer's features."""

    def __init__(self, network: SplitNetwork, deposited: Tensor) -> None:
        """deposited: (D,) class indices in ascending order, on the device."""
        self.deposited = deposited
        self.norm = nn.LayerNorm(classifier(network.upper).in_features, elementwise_affine=False)
        # From zeros, so that the result depends on no global seed.
        shape = len(deposited), self.norm.normalized_shape[0]
        self.weight = torch.zeros(shape, device=deposited.device, requires_grad=True)
        self.bias = torch.zeros(shape[:1], device=deposited.device, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.weight, self.bias], lr=LEARNING_RATE)

    def learn(self, features: Tensor, labels: Tensor) -> None:
        """features: (B, F) of deposit images, labels: (B,) class indices. The target learns nothing from this."""
        inputs, answers = self.norm(features.detach().float()), torch.searchsorted(self.deposited, labels)
        for _ in range(STEPS):
            self.optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(F.linear(inputs, self.weight, self.bias), answers).backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()

    def logits(self, features: Tensor) -> Tensor:
        """features: (B, F). Returns (B, D); the gradient reaches the features and not the probe."""
        return F.linear(self.norm(features.float()), self.weight.detach(), self.bias.detach())

    def state(self) -> dict[str, Tensor]:
        """The probe, and what its optimiser remembers."""
        return {"weight": self.weight, "bias": self.bias, **optimiser_state(self.optimiser)}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Goes on from a `state`."""
        self.weight.copy_(state.pop("weight"))
        self.bias.copy_(state.pop("bias"))
        restore_optimiser(self.optimiser, state)
