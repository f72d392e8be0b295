"""Removal in the representation: a linear probe trains alongside the target, and the target learns to confuse it.

Without it, a lower part could push the deposited logits down and still separate the deposited classes in the last
layer's features. (Domain confusion of Tzeng et al., 2015, with the deposited classes as domains.)
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lirf_core.class_rows import last_layer
from lirf_core.network import SplitNetwork
from lirf_core.state import optimiser_state, restore_optimiser

LEARNING_RATE = 0.003
STEPS = 3  # of the probe for each step of the target, which learns little from a probe that lags behind


class ProbeAdversary:
    """Multinomial logistic regression of the deposited classes on the last layer's features."""

    def __init__(self, network: SplitNetwork, deposited: Tensor) -> None:
        """deposited: (D,) class indices in ascending order, on the device."""
        self.deposited = deposited
        self.norm = nn.LayerNorm(last_layer(network.upper).in_features, elementwise_affine=False)
        # Starts from zeros, so that the result depends on no global seed.
        shape = len(deposited), self.norm.normalized_shape[0]
        self.weight = torch.zeros(shape, device=deposited.device, requires_grad=True)
        self.bias = torch.zeros(shape[:1], device=deposited.device, requires_grad=True)
        self.optimiser = torch.optim.Adam([self.weight, self.bias], lr=LEARNING_RATE)

    def learn(self, features: Tensor, labels: Tensor) -> None:
        """features: (B, F) of deposit images, labels: (B,) class indices. No gradient reaches the target."""
        inputs, places = self.norm(features.detach().float()), torch.searchsorted(self.deposited, labels)
        for _ in range(STEPS):
            self.optimiser.zero_grad(set_to_none=True)
            F.cross_entropy(F.linear(inputs, self.weight, self.bias), places).backward()  # type: ignore[no-untyped-call]
            self.optimiser.step()

    def logits(self, features: Tensor) -> Tensor:
        """features: (B, F). Returns (B, D); the gradient reaches the features, not the probe."""
        return F.linear(self.norm(features.float()), self.weight.detach(), self.bias.detach())

    def state(self) -> dict[str, Tensor]:
        """The probe and its optimiser's memory."""
        return {"weight": self.weight, "bias": self.bias, **optimiser_state(self.optimiser)}

    @torch.no_grad()
    def restore(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state`."""
        self.weight.copy_(state.pop("weight"))
        self.bias.copy_(state.pop("bias"))
        restore_optimiser(self.optimiser, state)
