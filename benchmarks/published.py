"""A deposit with the authors' published settings, for comparison.

20 epochs in batches of 128, float32, split after layer3, no pruning, no attention term. A DataLoader augments the
images one by one, and the upper part runs three times per step.

Our own code, after their description (their repository's README and `shared/data`): distillation with weight 0.9 and
cross-entropy with weight 0.1, batch norm in train mode, SGD with momentum 0.9 and learning rate 0.01.

`epoch_figures` and `best_epochs` evaluate a deposit as their code does, beside one rule for all images.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from benchmarks import data as sources
from benchmarks.data import Data
from benchmarks.experiments import Experiment, deposit_set, original
from lirf_core import losses, metrics
from lirf_core.compute import Compute
from lirf_core.deposit import DepositResult
from lirf_core.joining import ModuleAnswer, join
from lirf_core.network import SplitNetwork, digest, freeze
from lirf_core.recover import DepositModule

SPLIT = "layer3"


@dataclass(frozen=True)
class PublishedConfig:
    """distillation: weight of the distillation terms; cross-entropy has the rest."""

    epochs: int = 20
    batch_size: int = 128
    learning_rate: float = 0.01
    temperature: float = 10.0
    distillation: float = 0.9


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
    network: SplitNetwork,
    data: Data,
    images: Tensor,
    labels: Tensor,
    device: torch.device,
    *,
    config: PublishedConfig = PublishedConfig(),
    seed: int = 0,
    workers: int = 2,
    on_step: Callable[[int, int], None] = lambda *_: None,
    on_epoch: Callable[[SplitNetwork, SplitNetwork], None] = lambda *_: None,
) -> DepositResult:
    """images: uint8 (N, C, H, W) and labels (N,), of the deposited classes; network: split after layer3.

    on_epoch: gets the target, and the module under the original's upper part, in eval mode, after each epoch.
    """
    torch.manual_seed(seed)
    upper_digest = digest(network.upper)
    teacher = copy.deepcopy(network).to(device)
    freeze(teacher)
    target = copy.deepcopy(network.lower).to(device).requires_grad_(True).train()
    module = copy.deepcopy(network.lower).to(device).requires_grad_(True).train()
    deposited = torch.tensor(data.deposited, device=device)
    preserved = torch.tensor(data.preserved, device=device)
    optimiser = torch.optim.SGD([*target.parameters(), *module.parameters()], lr=config.learning_rate, momentum=0.9)
    loader = DataLoader(
        _Augmented(data, images, labels), batch_size=config.batch_size, shuffle=True, num_workers=workers
    )
    step = 0
    for _ in range(config.epochs):
        for pixels, truth in loader:
            inputs, true_labels = pixels.to(device), truth.to(device)
            with torch.no_grad():
                original_logits = teacher(inputs)
            target_logits = teacher.upper(target(inputs))
            module_logits = teacher.upper(module(inputs))
            recover_logits = join(target_logits, [ModuleAnswer(module_logits, data.deposited)], data.preserved, "eq8")
            random_labels = torch.randint(len(data.classes), true_labels.shape, device=device)
            loss = (
                (1 - config.distillation) * losses.random_removal(target_logits, random_labels)
                + config.distillation
                * losses.knowledge_preservation(target_logits, original_logits, preserved, config.temperature)
                + (1 - config.distillation) * F.cross_entropy(recover_logits, true_labels)
                + config.distillation
                * losses.partial_transfer(module_logits, original_logits, deposited, config.temperature)
            )
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step += 1
            on_step(step, config.epochs * len(loader))
        on_epoch(SplitNetwork(target.eval(), teacher.upper), SplitNetwork(module.eval(), teacher.upper))
        target.train()
        module.train()
    target_network = SplitNetwork(target, teacher.upper)
    freeze(target_network)
    freeze(nn.ModuleList([module]))
    return DepositResult(target_network, DepositModule(module, data.deposited, upper_digest, "eq8"))


def epoch_figures(data: Data, target: SplitNetwork, module: SplitNetwork, compute: Compute) -> dict[str, Any]:
    """Held-out accuracy in percent after an epoch: of the target; of eq. 8; and of their sum of all logits.

    Their `evaluate_dep` asks eq. 8 about deposited images, and the sum of both networks' logits about preserved ones.
    """
    of_target, of_module = (
        metrics.logits_of(network, data.held_out.pixels, data.preprocessing, compute) for network in (target, module)
    )
    answers = [ModuleAnswer(of_module, data.deposited)]
    rules = {
        "target": of_target,
        "eq8": join(of_target, answers, data.preserved, "eq8"),
        "sum": of_target + of_module,
    }
    return {rule: asdict(metrics.accuracy(z, data.held_out.labels, data.deposited)) for rule, z in rules.items()}


def best_epochs(epochs: Sequence[dict[str, Any]], deposited_share: float) -> dict[str, dict[str, float]]:
    """Target and recover network from the `epoch_figures` of all epochs, as the authors' code reports them.

    Two rules: see `epoch_figures`. The best epoch of each half is chosen on the test images themselves: the target's by
    its preserved accuracy, the recover network's by each half for itself. deposited_share: of the test images.
    """
    target = max((one["target"] for one in epochs), key=lambda accuracy: accuracy["preserved"])
    preserved = max(one["sum"]["preserved"] for one in epochs)
    deposited = max(one["eq8"]["deposited"] for one in epochs)
    average = (1 - deposited_share) * preserved + deposited_share * deposited
    return {"target": target, "recover": {"preserved": preserved, "deposited": deposited, "average": average}}


def outcome(
    experiment: Experiment, config: PublishedConfig, device: str, on_step: Callable[[int, int], None]
) -> dict[str, Any]:
    """The original's accuracy, the `epoch_figures` of every epoch, and what `best_epochs` makes of them."""
    data, exact = sources.load(experiment.data), Compute.for_inference(device)
    network, images = original(data, experiment, exact), deposit_set(data, experiment)
    epochs: list[dict[str, Any]] = []
    deposit_as_published(
        network,
        data,
        images.pixels,
        images.labels,
        exact.device,
        config=config,
        seed=experiment.seed,
        on_step=on_step,
        on_epoch=lambda target, module: epochs.append(epoch_figures(data, target, module, exact)),
    )
    logits = metrics.logits_of(network, data.held_out.pixels, data.preprocessing, exact)
    before = asdict(metrics.accuracy(logits, data.held_out.labels, data.deposited))
    share = torch.isin(data.held_out.labels, torch.tensor(data.deposited)).double().mean().item()
    return {"original": before, "epochs": epochs, "as_their_code": best_epochs(epochs, share)}
