"""Linear probe: what a stranger with labelled images of every class reads out of the last layer's features.

Logits that say nothing are not proof (Jung et al., Are We Truly Forgetting?, 2025). The yardstick is a network of the
same architecture that was trained on the preserved classes alone: it tells the deposited classes apart, too, as far as
features learnt for other classes do.
"""

from torch import Tensor, from_numpy
from torch.nn import functional as F

from lirf_core.evidence.answers import demand_finite


def linear_probe(training: tuple[Tensor, Tensor], asked: Tensor, classes: int, penalty: float = 10.0) -> Tensor:
    """What multinomial logistic regression on standardised features answers: (M, classes), 1 for the class it reads.

    training: features (N, F) and labels (N,), of two classes at least; asked: features (M, F). `penalty`: 1 / C.
    Raises `CannotBeMeasured` where a feature is not finite.
    """
    from sklearn.linear_model import LogisticRegression  # a second of the start of every process, few of which fit one
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    features, labels = training
    demand_finite(features)
    demand_finite(asked)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=1 / penalty, max_iter=200))
    read = probe.fit(features.double().numpy(), labels.numpy()).predict(asked.double().numpy())
    return F.one_hot(from_numpy(read).long(), classes)
