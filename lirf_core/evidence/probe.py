"""Linear probe: what an attacker with labelled images of every class reads from the last layer's features.

Logits that show nothing are no proof of forgetting (Jung et al., Are We Truly Forgetting?, 2025). The yardstick is a
network of the same architecture that was trained on the preserved classes only. A probe separates the deposited classes
there, too, as far as features that were learnt for other classes allow.
"""

import torch
from torch import Tensor, from_numpy

from lirf_core.evidence.answers import require_finite


def linear_probe(training: tuple[Tensor, Tensor], questions: Tensor, classes: int, penalty: float = 10.0) -> Tensor:
    """The log-probabilities of a multinomial logistic regression on standardised features: (M, classes), float64.

    training: features (N, F) and labels (N,), of at least two classes; questions: features (M, F). penalty: 1 / C.
    A class without training images has the lowest finite number. Raises `CannotBeMeasured` if a feature is not finite.
    """
    from sklearn.linear_model import LogisticRegression  # takes a second to import, and few processes need it
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = training
    require_finite(features)
    require_finite(questions)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=200))
    fitted = probe.fit(features.double().numpy(), labels.numpy())
    logs = from_numpy(fitted.predict_log_proba(questions.double().numpy()))
    lowest = torch.full((len(questions), classes), torch.finfo(logs.dtype).min, dtype=logs.dtype)
    return lowest.index_copy(1, from_numpy(fitted.classes_), logs.clamp_min(torch.finfo(logs.dtype).min))
