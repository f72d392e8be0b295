"""Training of a reference: the model's architecture, from scratch, on images of preserved classes alone.

A network that never saw the deposited classes is the yardstick of every claim about forgetting.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from lirf_core.architectures import ArchitectureSpec, untrained
from lirf_core.compute import Compute, memory_errors
from lirf_core.images.preprocessing import Augmentation, Preprocessing
from lirf_core.network import SplitNetwork, freeze
from lirf_core.training import DepositDiverged, Progress, Stepwise, deterministic, take_steps

MOST_EPOCHS, LEAST_STEPS = 30, 200
MOST_PIXELS = 300_000 * 64 * 64  # of all images over all epochs: it bounds the cost
BATCH, BATCH_PIXELS = 128, 128 * 64 * 64
LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 0.1, 0.9, 5e-4  # of `pretraining`


@dataclass(frozen=True, eq=False)
class Schooling:
    """What a reference learns from. images: uint8 (N, C, H, W); labels: int64 (N,), none of a deposited class."""

    images: Tensor
    labels: Tensor
    preprocessing: Preprocessing
    augmentation: Augmentation


def train_reference(
    spec: ArchitectureSpec,
    split: str,
    schooling: Schooling,
    compute: Compute,
    on_step: Callable[[Progress], None] = lambda _: None,
    checkpoint: bytes | None = None,
    seed: int = 0,
) -> SplitNetwork:
    """A frozen network. On one machine, the same arguments give the same network.

    `on_step` can raise an exception to stop; `checkpoint` is the last `Progress.checkpoint()` of the same training.
    Raises `DepositDiverged`, `ForeignCheckpoint`, `OutOfMemory`.
    """
    with deterministic(compute), memory_errors():
        training = ReferenceTraining(spec, split, schooling, compute, seed)
        take_steps(training, on_step, checkpoint)
        return training.trained()


def epochs_for(images: int, pixels: int, batch_size: int) -> int:
    """Enough for `LEAST_STEPS` steps, at most `MOST_EPOCHS`, within `MOST_PIXELS`; at least one.

    pixels: of one image. Many small epochs are cheap, so few images have more of them.
    """
    wanted = max(MOST_EPOCHS, -(-LEAST_STEPS // -(-images // batch_size)))
    return max(1, min(wanted, MOST_PIXELS // (images * pixels)))


class ReferenceTraining(Stepwise):
    """The network and the optimiser, after `step` of `steps`."""

    def __init__(self, spec: ArchitectureSpec, split: str, schooling: Schooling, compute: Compute, seed: int) -> None:
        self.schooling, self.compute = schooling, compute
        self.images, self.labels = schooling.images.to(compute.device), schooling.labels.to(compute.device)
        self.generator = Generator().manual_seed(seed)
        self.network = compute.place(untrained(spec, split, seed)).requires_grad_(True).train()
        pixels = schooling.preprocessing.height * schooling.preprocessing.width
        batch_size = max(2, min(BATCH, BATCH_PIXELS // pixels))
        self.step, self.order = 0, torch.empty(0, dtype=torch.int64)
        self.steps_per_epoch = -(-len(self.images) // batch_size)
        self.epochs = epochs_for(len(self.images), pixels, batch_size)
        self.steps = self.steps_per_epoch * self.epochs
        self.optimiser = torch.optim.SGD(
            self.network.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY, nesterov=True
        )
        self.learning_rates = OneCycleLR(
            self.optimiser, LEARNING_RATE, total_steps=max(self.steps, 2), cycle_momentum=False
        )

    def _learn(self, numbers: Tensor) -> dict[str, Tensor]:
        images = self.schooling.augmentation(self.images[numbers], self.generator)
        with self.compute.autocast():
            logits = self.network(self.compute.inputs(images, self.schooling.preprocessing))
        loss = F.cross_entropy(logits.float(), self.labels[numbers])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        self.learning_rates.step()
        return {"ce": loss.detach()}

    def _learnt(self) -> dict[str, Tensor]:
        return dict(self.network.state_dict())

    def _restore_learnt(self, state: dict[str, Tensor]) -> None:
        self.network.load_state_dict({name: state[name] for name in self.network.state_dict()})

    def trained(self) -> SplitNetwork:
        """The finished network, frozen. Raises `DepositDiverged` if its weights are not finite."""
        if not all(torch.isfinite(tensor).all() for tensor in self.network.state_dict().values()):
            raise DepositDiverged("The reference's training left weights that are not finite. Upload more images.")
        freeze(self.network)
        return self.network
