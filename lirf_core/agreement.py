"""What a network would lose, as far as it shows without a preserved image: answers on proxy images.

Proxies are harder than images, so a network that has lost nothing agrees on somewhat fewer of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from lirf_core.compute import Compute
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.metrics import logits_of
from lirf_core.proxies import make_proxies

PROXIES = 512
SEED = 1 << 31  # not a seed of a deposit: the proxies of its training must not be asked about


@dataclass(frozen=True)
class Agreement:
    """The percentage of `images` proxies to which a network gives the same answer as another one."""

    percent: float
    images: int


def agreement(
    teacher: nn.Module,
    student: nn.Module,
    images: Tensor,
    classes: Sequence[int],
    preprocessing: Preprocessing,
    compute: Compute,
    on_batch: Callable[[], None] = lambda: None,
) -> Agreement | None:
    """How often `student` answers like `teacher` on proxies of these classes.

    Only proxies count that the teacher takes for one of the classes. None: it takes none for one. images: uint8
    (N, C, H, W), of any class, from which proxies are made. Both networks are placed by `compute`, and frozen.
    `on_batch` is called after each batch and can raise an exception to stop.
    """
    generator = torch.Generator().manual_seed(SEED)
    goals, placed = torch.tensor(sorted(classes)), images.to(compute.device)
    proxies = make_proxies(teacher, placed, goals, PROXIES, preprocessing, compute, generator, on_batch).images
    answers = [
        logits_of(network, proxies, preprocessing, compute, on_batch).argmax(1) for network in (teacher, student)
    ]
    is_asked = torch.isin(answers[0], goals)
    if not is_asked.any():
        return None
    is_same = (answers[0] == answers[1])[is_asked]
    return Agreement(round(100 * is_same.double().mean().item(), 4), int(is_asked.sum()))
