"""t-SNE of the last layer's features (van der Maaten and Hinton, 2008), as in the paper's figure 3."""

import torch
from torch import Tensor

MIN_IMAGES = 8
ITERATIONS = 500  # half of scikit-learn's; from the principal components, pictures hardly change after that


def embedding(features: Tensor, seed: int = 0) -> list[tuple[float, float]]:
    """A point in the plane for each image; the same for all if their features are the same.

    features: (N, F), N at least `MIN_IMAGES`.
    """
    from sklearn.manifold import TSNE  # takes a second to import, and few processes need it

    largest_spread = features.std(0).amax()
    if not torch.isfinite(features).all() or largest_spread <= 1e-6 * features.abs().amax().clamp_min(1e-12):
        return [(0.0, 0.0)] * len(features)  # for such features, scikit-learn's neighbour search crashes the process
    perplexity = min(30.0, (len(features) - 1) / 3)
    points = TSNE(perplexity=perplexity, init="pca", max_iter=ITERATIONS, random_state=seed).fit_transform(
        features.numpy()
    )
    return [(round(float(x), 2), round(float(y), 2)) for x, y in points]
