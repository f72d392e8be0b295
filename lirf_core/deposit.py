"""Deposits: the fine-tuning of eq. 9, on the deposit set only, for whole classes or for single images."""

import copy
from collections.abc import Collection
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lirf_core import class_rows as rows
from lirf_core import losses, pruning, quantisation
from lirf_core.compute import Compute
from lirf_core.config import SAMPLE_EPOCHS, SAMPLE_STEPS, DepositConfig
from lirf_core.images.preprocessing import Augmentation, Preprocessing
from lirf_core.lesson import Lesson
from lirf_core.metrics import logits_of
from lirf_core.network import SplitNetwork, digest, flat_state
from lirf_core.recover import DepositModule
from lirf_core.removal import ClassRemoval, SampleRemoval
from lirf_core.training import Parts, Run, Trainer, train

MODULE_BUDGET = 0.05  # of the original's bytes


@dataclass(frozen=True)
class DepositResult:
    """The target network and the deposit module, both in eval mode.

    The target's upper part is the original's own, so it still has the deposited rows, of which the module has a copy.
    `rows.remove` takes them out.
    """

    target: SplitNetwork
    module: DepositModule


@dataclass(frozen=True, eq=False)
class UnseenMargins:
    """Margins (U,) (`losses.margins`) of images that a network never saw, and their labels (U,)."""

    margins: Tensor
    labels: Tensor


def unseen_margins(
    original: SplitNetwork, images: Tensor, labels: Tensor, preprocessing: Preprocessing, compute: Compute
) -> UnseenMargins:
    """images: uint8 (U, C, H, W), that the network never saw; labels: (U,)."""
    logits = logits_of(compute.place(copy.deepcopy(original)), images, preprocessing, compute)
    return UnseenMargins(losses.margins(logits, labels), labels)


def deposit(original: SplitNetwork, lesson: Lesson, run: Run, teacher: SplitNetwork | None = None) -> DepositResult:
    """Split the knowledge of `original`, which may already be a target network, into target and deposit module.

    teacher: the network from before earlier deposits, if it still exists. Both parts then learn its answers instead of
    those of `original`, so that small losses do not add up over many deposits. They keep the features of `original`:
    the teacher's would teach them the earlier deposits' classes again.
    On one machine, the same networks, lesson and configuration give the same result. Raises ValueError if no class
    would be left, and what `train` raises.
    """
    _require_preserved(lesson)
    removal = _class_removal(original, lesson, run)
    return _result(train(_parts(original, lesson, run.config, teacher), removal, lesson, run))


def deposit_samples(original: SplitNetwork, lesson: Lesson, unseen: UnseenMargins, run: Run) -> DepositResult:
    """Split off what `original` knows of single images; it goes on answering for their classes.

    The target answers the deposit images like images that it never saw: in each class, their margins follow the
    distribution of `unseen`, the original's margins of held-out images. Training uses no held-out image. Deposit images
    are not augmented, because the original learnt these images and not their variations. Without `epochs` there are at
    least `SAMPLE_EPOCHS`, and enough for `SAMPLE_STEPS` steps. `lesson.deposited` are the
    deposit images' classes; a withdrawn module answers for them.
    Raises ValueError if a class of the deposit images has no unseen image, and what `train` raises.
    """
    if missing := set(lesson.deposited) - set(unseen.labels.tolist()):
        raise ValueError(
            f"There is no held-out image of classes {sorted(missing)} to show how the network answers an unseen image."
        )
    placed = run.compute.place(copy.deepcopy(original))
    seen = losses.margins(logits_of(placed, lesson.images, lesson.preprocessing, run.compute), lesson.labels)
    margins = torch.empty_like(seen)
    for index in lesson.deposited:
        is_of_class = lesson.labels == index
        margins[is_of_class] = losses.margins_as_unseen(seen[is_of_class], unseen.margins[unseen.labels == index])
    classes = _indices([*lesson.deposited, *lesson.preserved], run.compute)
    removal = SampleRemoval(classes, margins.to(run.compute.device), run.config)
    steps_per_epoch = -(-len(lesson.images) // run.config.batch_size)
    config = replace(
        run.config,
        augmentation=Augmentation(crop_padding=0, horizontal_flip=False),
        epochs=run.config.epochs or max(SAMPLE_EPOCHS, -(-SAMPLE_STEPS // steps_per_epoch)),
    )
    return _result(train(_parts(original, lesson, config), removal, lesson, replace(run, config=config)))


def scrub(
    module: DepositModule, upper: nn.Module, lesson: Lesson, run: Run, teacher: SplitNetwork | None = None
) -> DepositModule:
    """Remove from an earlier deposit's module what it still knows of the classes that are deposited now.

    A module is made from the network of its time, so it also knows classes that are deposited later. Eq. 8 does not use
    its logits for them, but the knowledge is there. The module's lower part forgets these classes as a target does, on
    the same deposit set, and keeps the preserved classes and its own, as `teacher` answers them: see `deposit`. Raises
    what `deposit` raises.
    """
    _require_preserved(lesson)
    network = SplitNetwork(module.lower, upper)
    # The module of single images answers for classes that are preserved anyway.
    own = replace(lesson, preserved=list({*lesson.preserved, *module.classes}))
    parts = Parts(network, module.grid.bits, None, None, teacher or network)
    lower, grid = train(parts, _class_removal(network, own, run), own, run).scrubbed()
    return module.with_lower(lower, grid).without(lesson.deposited)


def _class_removal(network: SplitNetwork, lesson: Lesson, run: Run) -> ClassRemoval:
    deposited, preserved = _indices(lesson.deposited, run.compute), _indices(lesson.preserved, run.compute)
    foreign = _indices(_foreign(network, lesson), run.compute)
    return ClassRemoval(network, deposited, preserved, foreign, run.config)


def _foreign(network: SplitNetwork, lesson: Lesson) -> set[int]:
    """The classes of other deposits whose rows are in place."""
    try:
        present = rows.present(network)
    except rows.NoRows:  # a network from Python
        return set()
    return {*present} - {*lesson.deposited, *lesson.preserved}


def _indices(classes: Collection[int], compute: Compute) -> Tensor:
    """In ascending order, on the device."""
    return torch.tensor(sorted(classes), dtype=torch.int64, device=compute.device)


def _require_preserved(lesson: Lesson) -> None:
    if not lesson.preserved:
        raise ValueError("No class is left to preserve. Deposit fewer classes.")


def _parts(original: SplitNetwork, lesson: Lesson, config: DepositConfig, teacher: SplitNetwork | None = None) -> Parts:
    size = lesson.preprocessing.height, lesson.preprocessing.width
    example = pruning.example_input(lesson.preprocessing.channels, size)
    module = pruning.prune(original.lower, config.pruning_rate, example)
    budget = int(MODULE_BUDGET * sum(tensor.nbytes for tensor in flat_state(original).values()))
    bits = config.module_bits or quantisation.bits_within(module, budget)
    return Parts(original, None, module, bits, teacher or original)


def _result(trained: Trainer) -> DepositResult:
    target, (lower, grid) = trained.target(), trained.module()
    lesson, joining = trained.lesson, trained.config.joining
    weight = trained.weight(lower) if joining == "averaged" and lesson.preserved else 1.0
    original = trained.parts.original
    try:
        own_rows = rows.take(original, lesson.deposited)
    except rows.NoRows:  # a network from Python: its upper part keeps what names the classes
        own_rows = None
    known = [*lesson.deposited, *lesson.preserved]
    module = DepositModule(lower, lesson.deposited, digest(original.upper), joining, weight, grid, own_rows, known)
    return DepositResult(target, module)
