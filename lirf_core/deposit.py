"""Deposit: the fine-tuning of eq. 9, on the deposit set alone. Of whole classes, or of single images."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lirf_core import losses, pruning, quantisation
from lirf_core.compute import Compute
from lirf_core.config import DepositConfig
from lirf_core.images.data import Augmentation, Preprocessing
from lirf_core.metrics import logits_of
from lirf_core.network import SplitNetwork, digest, flat_state
from lirf_core.recover import DepositModule
from lirf_core.removal import ClassRemoval, SampleRemoval
from lirf_core.training import Parts, Progress, Trainer, train

MODULE_BUDGET = 0.05  # of the original's bytes


@dataclass(frozen=True)
class DepositResult:
    """The target network, whose upper part is the original's own, and the deposit module. Both in eval mode."""

    target: SplitNetwork
    module: DepositModule


def deposit(
    original: SplitNetwork,
    images: Tensor,
    labels: Tensor,
    deposited: Sequence[int],
    preserved: Sequence[int],
    preprocessing: Preprocessing,
    config: DepositConfig,
    compute: Compute,
    on_step: Callable[[Progress], None] = lambda _: None,
    on_preparation: Callable[[], None] = lambda: None,
    checkpoint: bytes | None = None,
) -> DepositResult:
    """Splits the knowledge of `original` (which may already be a target network) into target and deposit module.

    images: uint8 (N, C, H, W) of deposited classes only; labels: int64 (N,). `preserved` are the classes that the
    network answers for after this deposit. `on_preparation` is called after each batch of proxy images that was made,
    `on_step` after each step; either stops the deposit by raising. With a `checkpoint` (`Progress.checkpoint`) of a
    deposit with the same arguments that was stopped so, it goes on from there.
    The result depends on the other arguments alone (on one machine). Raises `DepositDiverged`, `ForeignCheckpoint`, and
    ValueError for a deposit set that is empty or has images of another class, or when no class would be left.
    """
    _demand_some(preserved)
    removal = ClassRemoval(original, _indices(deposited, compute), _indices(preserved, compute), config)
    parts = _parts(original, deposited, preserved, preprocessing, config)
    trained = train(parts, removal, images, labels, preprocessing, config, compute, on_step, on_preparation, checkpoint)
    return _result(trained)


def deposit_samples(
    original: SplitNetwork,
    images: Tensor,
    labels: Tensor,
    unseen: tuple[Tensor, Tensor],
    classes: Sequence[int],
    preprocessing: Preprocessing,
    config: DepositConfig,
    compute: Compute,
    on_step: Callable[[Progress], None] = lambda _: None,
    on_preparation: Callable[[], None] = lambda: None,
    checkpoint: bytes | None = None,
) -> DepositResult:
    """Splits off what `original` knows of single images, whose classes it goes on answering for.

    The target answers the deposit images as images that it never saw: their margins (`losses.margins`) in each class
    are distributed as those of `unseen`: margins (U,) by the original, and labels (U,), of held-out images of the same
    classes. No held-out image is trained on.
    Images are shown as they are, not augmented, because it is they that were learnt.
    Withdrawn, the module answers for the classes of the deposit images. images: uint8 (N, C, H, W); labels: int64
    (N,); `classes` are all that the network answers for. Callbacks and errors are those of `deposit`; ValueError also
    where a class of the deposit images has no unseen one.
    """
    deposited = sorted(set(labels.tolist()))
    if missing := set(deposited) - set(unseen[1].tolist()):
        raise ValueError(
            f"there is no held-out image of classes {sorted(missing)} to say how an unseen one is answered."
        )
    preserved = sorted(set(classes) - set(deposited))
    asked = compute.place(copy.deepcopy(original))
    found = losses.margins(logits_of(asked, images, preprocessing, compute), labels)
    wanted = torch.empty_like(found)
    for index in deposited:
        wanted[labels == index] = losses.as_unseen(found[labels == index], unseen[0][unseen[1] == index])
    removal = SampleRemoval(_indices(classes, compute), wanted.to(compute.device), config)
    parts = _parts(original, deposited, preserved, preprocessing, config)
    as_they_are = replace(config, augmentation=Augmentation(crop_padding=0, horizontal_flip=False))
    trained = train(
        parts, removal, images, labels, preprocessing, as_they_are, compute, on_step, on_preparation, checkpoint
    )
    return _result(trained)


def scrub(
    module: DepositModule,
    upper: nn.Module,
    images: Tensor,
    labels: Tensor,
    deposited: Sequence[int],
    preserved: Sequence[int],
    preprocessing: Preprocessing,
    config: DepositConfig,
    compute: Compute,
    on_step: Callable[[Progress], None] = lambda _: None,
    on_preparation: Callable[[], None] = lambda: None,
    checkpoint: bytes | None = None,
) -> DepositModule:
    """The module of an earlier deposit without what it still knows of the classes that are deposited now.

    A module is made from the network as it was, so it knows classes that are deposited later, too: eq. 8 does not ask
    it for them, but the knowledge is there. The module's lower part forgets them as a target does, on the same deposit
    set, and keeps the preserved classes and its own. Arguments and errors are those of `deposit`.
    """
    _demand_some(preserved)
    kept = sorted([*preserved, *module.classes])
    network = SplitNetwork(module.lower, upper)
    removal = ClassRemoval(network, _indices(deposited, compute), _indices(kept, compute), config)
    parts = Parts(network, module.grid.bits, None, None, sorted(deposited), kept)
    trained = train(parts, removal, images, labels, preprocessing, config, compute, on_step, on_preparation, checkpoint)
    lower, grid = trained.scrubbed()
    return DepositModule(lower, module.classes, module.upper_digest, module.joining, module.weight, grid)


def _indices(classes: Sequence[int], compute: Compute) -> Tensor:
    """In ascending order, on the device."""
    return torch.tensor(sorted(classes), device=compute.device)


def _demand_some(preserved: Sequence[int]) -> None:
    if not preserved:
        raise ValueError("no class is left to preserve; deposit fewer classes.")


def _parts(
    original: SplitNetwork,
    deposited: Sequence[int],
    preserved: Sequence[int],
    preprocessing: Preprocessing,
    config: DepositConfig,
) -> Parts:
    example = pruning.example_input(preprocessing.channels, (preprocessing.height, preprocessing.width))
    module = pruning.prune(original.lower, config.pruning_rate, example)
    budget = int(MODULE_BUDGET * sum(tensor.nbytes for tensor in flat_state(original).values()))
    bits = config.module_bits or quantisation.bits_within(module, budget)
    return Parts(original, None, module, bits, sorted(deposited), sorted(preserved))


def _result(trained: Trainer) -> DepositResult:
    target, (lower, grid) = trained.target(), trained.module()
    parts, joining = trained.parts, trained.config.joining
    weight = trained.weight(lower) if joining == "averaged" and parts.preserved else 1.0
    upper_digest = digest(parts.original.upper)
    return DepositResult(target, DepositModule(lower, parts.deposited, upper_digest, joining, weight, grid))
