"""What a network would lose, as far as it shows without a preserved image: answers on proxy images.

Proxies are harder than images, so a network that has lost nothing agrees on somewhat fewer of them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from lirf_core.compute import Compute
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.metrics import logits_of, tally
from lirf_core.proxies import make_proxies
from lirf_core.tally import Tally

PROXIES = 512
SEED = 1 << 31  # not a seed of a deposit: the proxies of its training must not be asked about


def agreement(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    classes: Sequence[int],
    preprocessing: Preprocessing,
    compute: Compute,
    on_batch: Callable[[], None] = lambda: None,
) -> Tally:
    """How often `student` answers like `teacher` on proxies of these classes, by the class that the teacher answers.

    Only proxies count that the teacher takes for one of the classes. There may be none. images: uint8 (N, C, H, W), of
    any class, from which proxies are made. Both networks are placed by `compute`, and frozen. `on_batch` is called
    after each batch and can raise an exception to stop.
    """
    generator = torch.Generator().manual_seed(SEED)
    goals, placed = torch.tensor(sorted(classes)), images.to(compute.device)
    proxies = make_proxies(teacher, placed, goals, PROXIES, preprocessing, compute, generator, on_batch).images
    expected = logits_of(teacher, proxies, preprocessing, compute, on_batch).argmax(1)
    is_asked = torch.isin(expected, goals)
    logits = logits_of(student, proxies, preprocessing, compute, on_batch)
    return tally(logits[is_asked], expected[is_asked])
