"""Readouts of features: ridge regression, and new deposited rows. `evidence.probe` has the logistic regression."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def ridge(training: tuple[Tensor, Tensor], questions: list[Tensor], classes: int, penalty: float) -> list[Tensor]:
    """Ridge regression of the one-hot labels on standardised features, in closed form.

    training: features (N, F) and labels (N,); questions: features (M, F) each. Returns scores (M, classes) each,
    float64.
    """
    features, labels = training
    inputs, *asked = _standardised(features, [features, *questions])
    targets = F.one_hot(labels, classes).double()
    shrinkage = torch.full((inputs.shape[1],), penalty, dtype=torch.float64)
    shrinkage[-1] = 1e-6
    weights = torch.linalg.solve(inputs.T @ inputs + shrinkage.diag(), inputs.T @ targets)
    return [of @ weights for of in asked]


def learnt_rows(
    training: tuple[Tensor, Tensor, Tensor],
    questions: list[tuple[Tensor, Tensor]],
    deposited: Sequence[int],
    penalty: float,
) -> list[Tensor]:
    """Logistic regression of the deposited logits on standardised features, beside preserved logits that stay.

    training: features (N, F), the network's logits (N, classes) and labels (N,); questions: features (M, F) and logits
    (M, classes) each. penalty: 1 / C of scikit-learn. Returns logits (M, classes) each, float64.
    """
    features, logits, labels = training
    inputs, *asked = _standardised(features, [features, *(of for of, _ in questions)])
    columns = torch.tensor(sorted(deposited))
    weights = torch.zeros(inputs.shape[1], len(columns), dtype=torch.float64, requires_grad=True)
    search = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        search.zero_grad()
        replaced = logits.double().index_copy(1, columns, inputs @ weights)
        value = F.cross_entropy(replaced, labels, reduction="sum") + penalty / 2 * weights[:-1].square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        search.step(loss)  # type: ignore[no-untyped-call]
    found = weights.detach()
    return [of.double().index_copy(1, columns, each @ found) for each, (_, of) in zip(asked, questions, strict=True)]


def _standardised(features: Tensor, each: Sequence[Tensor]) -> list[Tensor]:
    """(M, F + 1) each, float64: standardised as `features` are, and a column of ones for the intercept."""
    features = features.double()
    mean, std = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    return [F.pad((of.double() - mean) / std, (0, 1), value=1.0) for of in each]
