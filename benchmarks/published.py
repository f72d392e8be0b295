"""A deposit with the authors' published settings, for comparison.

20 epochs in batches of 128, float32, split after layer3, no pruning, no attention term. A DataLoader augments the
images one by one, and the upper part runs three times per step.

Our own code, after their description (their repository's README and `shared/data`): distillation with weight 0.9 and
cross-entropy with weight 0.1, batch norm in train mode, SGD with momentum 0.9 and learning rate 0.01.
"""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks.data import Data
from lirf_core import losses
from lirf_core.deposit import DepositResult
from lirf_core.network import SplitNetwork, digest, freeze
from lirf_core.recover import DepositModule

SPLIT = "layer3"
EPOCHS = 20
BATCH = 128
LEARNING_RATE = 0.01
TEMPERATURE = 10.0
DISTILLATION = 0.9  # weight of the distillation terms; cross-entropy has the rest


class _Augmented(Dataset[tuple[Tensor, int]]):
    def __init__(self, data: Data, images: Tensor, labels: Tensor) -> None:
        height, width = images.shape[-2:]
        steps = [v2.RandomCrop((height, width), padding=data.augmentation.crop_padding)]
        if data.augmentation.horizontal_flip:
            steps.append(v2.RandomHorizontalFlip())
        mean, deviation = list(data.preprocessing.mean), list(data.preprocessing.std)
        scaled = [v2.ToDtype(torch.float32, scale=True), v2.Normalize(mean, deviation)]
        self.augment = v2.Compose([*steps, v2.RandomRotation(15), *scaled])
        self.images, self.labels = images, labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.augment(self.images[index]), int(self.labels[index])


def deposit_as_published(
    original: SplitNetwork,
    data: Data,
    images: Tensor,
    labels: Tensor,
    device: torch.device,
    *,
    epochs: int = EPOCHS,
    seed: int = 0,
    workers: int = 2,
    on_step: Callable[[int, int], None] = lambda *_: None,
) -> DepositResult:
    """images: uint8 (N, C, H, W) and labels (N,), of the deposited classes; `original` is split after layer3."""
    torch.manual_seed(seed)
    upper_digest = digest(original.upper)
    teacher = copy.deepcopy(original).to(device)
    freeze(teacher)
    target = copy.deepcopy(original.lower).to(device).requires_grad_(True).train()
    module = copy.deepcopy(original.lower).to(device).requires_grad_(True).train()
    deposited = torch.tensor(data.deposited, device=device)
    preserved = torch.tensor(data.preserved, device=device)
    optimiser = torch.optim.SGD([*target.parameters(), *module.parameters()], lr=LEARNING_RATE, momentum=0.9)
    loader = DataLoader(_Augmented(data, images, labels), batch_size=BATCH, shuffle=True, num_workers=workers)
    step = 0
    for _ in range(epochs):
        for pixels, truth in loader:
            inputs, true_labels = pixels.to(device), truth.to(device)
            with torch.no_grad():
                original_logits = teacher(inputs)
            target_logits = teacher.upper(target(inputs))
            module_logits = teacher.upper(module(inputs))
            recover_logits = losses.join(
                target_logits, [losses.ModuleAnswer(module_logits, data.deposited)], data.preserved, "eq8"
            )
            random_labels = torch.randint(len(data.classes), true_labels.shape, device=device)
            loss = (
                (1 - DISTILLATION) * losses.random_removal(target_logits, random_labels)
                + DISTILLATION * losses.knowledge_preservation(target_logits, original_logits, preserved, TEMPERATURE)
                + (1 - DISTILLATION) * F.cross_entropy(recover_logits, true_labels)
                + DISTILLATION * losses.partial_transfer(module_logits, original_logits, deposited, TEMPERATURE)
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step += 1
            on_step(step, epochs * len(loader))
    target_network = SplitNetwork(target, teacher.upper)
    freeze(target_network)
    freeze(nn.ModuleList([module]))
    return DepositResult(target_network, DepositModule(module, data.deposited, upper_digest, "eq8"))
