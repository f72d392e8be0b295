"""Proxy images, which stand in for the preserved images that a deposit must never see.

A proxy is a deposit image, changed until the original network is confident that it shows a preserved class. It then has
features of that class that real images have, too (Ilyas et al., Adversarial Examples Are Not Bugs, They Are Features,
2019), so distillation on proxies keeps preserved knowledge (Cha et al., Learning to Unlearn, AAAI 2024).
"""

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional as F

from lirf_core.compute import Compute
from lirf_core.config import MAX_PROXIES_PER_IMAGE
from lirf_core.images.preprocessing import Preprocessing

BATCH = 128
STEPS = 5  # of gradient descent, within each reach
REACHES = (24, 48, 96)  # largest change of a value, of 255; images with few grey levels need more than photographs
CONFIDENCE = 0.9  # an image is changed no further once its goal has this probability


class Pool:
    """images: uint8 (N, C, H, W), on the device. Each step of a deposit draws some of them."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def draw(self, count: int, generator: Generator) -> Tensor:
        """Draw `count` images at random; none if there are none."""
        if not len(self.images):
            return self.images
        return self.images[torch.randint(len(self.images), (count,), generator=generator).to(self.images.device)]


def make_proxies(
    original: nn.Module,
    images: Tensor,
    preserved: Tensor,
    count: int,
    preprocessing: Preprocessing,
    compute: Compute,
    generator: Generator,
    on_batch: Callable[[], None] = lambda: None,
) -> Pool:
    """Make `count` proxies, or fewer if there are few images. Each image moves towards a random preserved class.

    Targeted projected gradient descent (Madry et al., 2018): `STEPS` steps by the sign of the gradient, in which no
    value changes by more than a reach. The reach is the smallest of `REACHES` at which the original gives the class a
    probability of `CONFIDENCE`.
    images: uint8 (N, C, H, W), on the device; preserved: (P,) class indices. `original` must be frozen. `on_batch` is
    called after each step of each batch and can raise an exception to stop.
    """
    proxies = [images[:0]]
    chosen = torch.cat([torch.randperm(len(images), generator=generator) for _ in range(MAX_PROXIES_PER_IMAGE)])[:count]
    for batch in torch.split(chosen, BATCH) if count else []:
        start = images[batch.to(images.device)].float()
        goals = preserved[torch.randint(len(preserved), (len(batch),), generator=generator).to(preserved.device)]
        proxies.append(_moved(original, start, goals, preprocessing, compute, on_batch))
    return Pool(torch.cat(proxies))


def _moved(
    original: nn.Module,
    start: Tensor,
    goals: Tensor,
    preprocessing: Preprocessing,
    compute: Compute,
    on_step: Callable[[], None],
) -> Tensor:
    def surprise(images: Tensor, goals: Tensor) -> Tensor:
        with compute.autocast():
            logits = original(preprocessing.normalise(images).contiguous(memory_format=compute.memory_format))
        return F.cross_entropy(logits.float(), goals, reduction="none")

    moved, unsure = start.clone(), torch.arange(len(start), device=start.device)
    for reach in REACHES:
        if reach > REACHES[0]:
            with torch.no_grad():
                unsure = unsure[surprise(moved[unsure], goals[unsure]) > -math.log(CONFIDENCE)]
            if not len(unsure):
                break
        images, origin, goal = moved[unsure], start[unsure], goals[unsure]
        for _ in range(STEPS):
            images = images.detach().requires_grad_()
            (slope,) = torch.autograd.grad(surprise(images, goal).sum(), images)
            images = images.detach() - 1.5 * reach / STEPS * slope.sign()
            images = images.clamp(origin - reach, origin + reach).clamp(0, 255)
            on_step()
        moved[unsure] = images
    return moved.round().to(torch.uint8)
