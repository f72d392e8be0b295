"""Proxy images, which stand in for the preserved images that a deposit must never see.

A proxy is a deposit image, changed until the original network is confident that it shows a preserved class. It then has
features of that class that real images have, too (Ilyas et al., Adversarial Examples Are Not Bugs, They Are Features,
2019), so distillation on proxies keeps preserved knowledge (Cha et al., Learning to Unlearn, AAAI 2024).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

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


@dataclass(frozen=True, eq=False)
class Pool:
    """images: uint8 (N, C, H, W); classes: (N,), what each one shows or imitates. Both on the device.

    Each step of a training draws some of them.
    """

    images: Tensor
    classes: Tensor

    def draw(self, count: int, generator: Generator) -> "Pool":
        """Draw `count` of them at random; none if there are none."""
        if not len(self.images):
            return self
        chosen = torch.randint(len(self.images), (count,), generator=generator).to(self.images.device)
        return Pool(self.images[chosen], self.classes[chosen])


def make_proxies(
    original: nn.Module,
    images: Tensor,
    classes: Tensor,
    count: int,
    preprocessing: Preprocessing,
    compute: Compute,
    generator: Generator,
    on_batch: Callable[[], None] = lambda: None,
) -> Pool:
    """Make `count` proxies, or fewer if there are few images. Each image moves towards a random one of the classes.

    Targeted projected gradient descent (Madry et al., 2018): `STEPS` steps by the sign of the gradient, in which no
    value changes by more than a reach. The reach is the smallest of `REACHES` at which the original gives the class a
    probability of `CONFIDENCE`.
    images: uint8 (N, C, H, W), on the device; classes: (P,) indices. `original` must be frozen. `on_batch` is
    called after each step of each batch and can raise an exception to stop.
    """
    proxies, imitated = [images[:0]], [classes[:0]]
    chosen = torch.cat([torch.randperm(len(images), generator=generator) for _ in range(MAX_PROXIES_PER_IMAGE)])[:count]
    for batch in torch.split(chosen, BATCH) if count else []:
        start = images[batch.to(images.device)].float()
        goals = classes[torch.randint(len(classes), (len(batch),), generator=generator).to(classes.device)]
        proxies.append(_moved(original, start, goals, preprocessing, compute, on_batch))
        imitated.append(goals)
    return Pool(torch.cat(proxies), torch.cat(imitated))


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
