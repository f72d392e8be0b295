"""t-SNE of the last layer's features (van der Maaten and Hinton, 2008), as in the paper's figure 3."""

import torch
from torch import Tensor

LEAST = 8  # images; fewer have no picture


def embedding(features: Tensor, seed: int = 0) -> list[tuple[float, float]]:
    """A place in the plane for each image; one for all where the features tell none apart.

    features: (N, F), N at least `LEAST`.
    """
    from sklearn.manifold import TSNE  # a second of the start of every process, of which few ask for it

    spread = features.std(0).amax()
    if not torch.isfinite(features).all() or spread <= 1e-6 * features.abs().amax().clamp_min(1e-12):
        return [(0.0, 0.0)] * len(features)  # of which scikit-learn's search for neighbours crashes the process
    perplexity = min(30.0, (len(features) - 1) / 3)
    placed = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(features.numpy())
    return [(round(float(x), 2), round(float(y), 2)) for x, y in placed]
