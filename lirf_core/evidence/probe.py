"""Linear probe: what a stranger with labelled images of every class reads out of the last layer's features.

Logits that say nothing are not proof (Jung et al., Are We Truly Forgetting?, 2025). The yardstick is a network of the
same architecture that was trained on the preserved classes alone: it tells the deposited classes apart, too, as far as
features learnt for other classes do.
"""

from collections.abc import Collection

import torch
from torch import Tensor
from torch.nn import functional as F

from lirf_core.metrics import Accuracy, accuracy


def linear_probe(
    training: tuple[Tensor, Tensor],
    held_out: tuple[Tensor, Tensor],
    deposited: Collection[int],
    penalty: float = 10.0,
) -> Accuracy:
    """Held-out accuracy of multinomial logistic regression on standardised features.

    training, held_out: features (N, F) and labels (N,) of all classes. `penalty` is scikit-learn's 1 / C.
    """
    features, labels = training
    mean, deviation = features.mean(0), features.std(0).clamp_min(1e-6)
    classes = int(max(labels.max(), held_out[1].max())) + 1
    inputs = ((features - mean) / deviation).double()
    weight = torch.zeros(classes, features.shape[1], dtype=torch.double, requires_grad=True)
    bias = torch.zeros(classes, dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.LBFGS([weight, bias], max_iter=300, tolerance_change=1e-7, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        total = (
            F.cross_entropy(F.linear(inputs, weight, bias), labels) + penalty / 2 / len(labels) * weight.square().sum()
        )
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    logits = F.linear(((held_out[0] - mean) / deviation).double(), weight, bias).detach()
    return accuracy(logits, held_out[1], deposited)
