"""Ridge regression on features; `evidence.probe` has the logistic one."""

import torch
from torch import Tensor
from torch.nn import functional as F


def ridge(training: tuple[Tensor, Tensor], questions: list[Tensor], classes: int, penalty: float) -> list[Tensor]:
    """Ridge regression of the one-hot labels on standardised features, in closed form.

    training: features (N, F) and labels (N,); questions: features (M, F) each. Returns scores (M, classes) each,
    float64.
    """
    features, labels = training[0].double(), training[1]
    mean, std = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)

    def standardised(of: Tensor) -> Tensor:
        return F.pad((of.double() - mean) / std, (0, 1), value=1.0)  # a column of ones for the intercept

    inputs, targets = standardised(features), F.one_hot(labels, classes).double()
    shrinkage = torch.full((inputs.shape[1],), penalty, dtype=torch.float64)
    shrinkage[-1] = 1e-6
    weights = torch.linalg.solve(inputs.T @ inputs + shrinkage.diag(), inputs.T @ targets)
    return [standardised(of) @ weights for of in questions]
