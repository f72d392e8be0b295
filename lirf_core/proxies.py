"""Proxy images: what a deposit shows its networks in place of the preserved images, which it may never see.

A deposit image is changed until the original network is sure that it is of a preserved class. Such an image carries
features of that class which hold for real images too (Ilyas et al., Adversarial Examples Are Not Bugs, They Are
Features, 2019), so that distilling on it keeps preserved knowledge (Cha et al., Learning to Unlearn, AAAI 2024).
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from lirf_core.compute import Compute
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.network import SplitNetwork

BATCH = 128
STEPS = 5  # within each reach
REACHES = (24, 48, 96)  # of 255; images of few grey levels need a farther one than photographs
SURE = 0.9  # an image whose goal has this probability goes no further
MAX_OF_EACH = 8  # proxies made from one image: more would show the same background over and over


class Proxies:
    """images: uint8 (N, C, H, W) on the device. Each step of a deposit draws some of them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def draw(self, count: int, generator: Generator) -> Tensor:
        """`count` of them at random, none where there are none."""
        if not len(self.images):
            return self.images
        return self.images[torch.randint(len(self.images), (count,), generator=generator).to(self.images.device)]


def make_proxies(
    original: SplitNetwork,
    images: Tensor,
    preserved: Tensor,
    count: int,
    preprocessing: Preprocessing,
    compute: Compute,
    generator: Generator,
    on_batch: Callable[[], None] = lambda: None,
) -> Proxies:
    """`count` proxies, or fewer where there are few images: each an image moved towards a preserved class at random.

    images: uint8 (N, C, H, W) on the device; preserved: (P,) class indices. `STEPS` of the sign of the gradient
    (targeted projected gradient descent, Madry et al., 2018), no value changed by more than the least of `REACHES` at
    which the original is `SURE` of the class.
    `original` must be frozen. `on_batch` is called after each reach of each batch and stops the making by raising.
    """
    made = [images[:0]]
    chosen = torch.cat([torch.randperm(len(images), generator=generator) for _ in range(MAX_OF_EACH)])[:count]
    for batch in torch.split(chosen, BATCH) if count else []:
        start = images[batch.to(images.device)].float()
        goals = preserved[torch.randint(len(preserved), (len(batch),), generator=generator).to(preserved.device)]
        made.append(_moved(original, start, goals, preprocessing, compute, on_batch))
    return Proxies(torch.cat(made))


def _moved(
    original: SplitNetwork,
    start: Tensor,
    goals: Tensor,
    preprocessing: Preprocessing,
    compute: Compute,
    on_reach: Callable[[], None],
) -> Tensor:
    def surprise(images: Tensor, goals: Tensor) -> Tensor:
        with compute.autocast():
            logits = original(preprocessing.normalise(images).contiguous(memory_format=compute.memory_format))
        return F.cross_entropy(logits.float(), goals, reduction="none")

    moved, unsure = start.clone(), torch.arange(len(start), device=start.device)
    for reach in REACHES:
        if reach > REACHES[0]:
            with torch.no_grad():
                unsure = unsure[surprise(moved[unsure], goals[unsure]) > -math.log(SURE)]
            if not len(unsure):
                break
        images, origin, goal = moved[unsure], start[unsure], goals[unsure]
        for _ in range(STEPS):
            images = images.detach().requires_grad_()
            (slope,) = torch.autograd.grad(surprise(images, goal).sum(), images)
            images = images.detach() - 1.5 * reach / STEPS * slope.sign()
            images = images.clamp(origin - reach, origin + reach).clamp(0, 255)
        moved[unsure] = images
        on_reach()
    return moved.round().to(torch.uint8)
