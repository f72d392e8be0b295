"""Training of an original network T0 from scratch, for the demo, the tests and the benchmarks."""

import torch
from torch import Generator, Tensor
from torch.nn import functional as F
from torch.optim.lr_scheduler import OneCycleLR

from lirf_core.architectures import ArchitectureSpec, build
from lirf_core.compute import Compute
from lirf_core.images.preprocessing import Augmentation, Preprocessing
from lirf_core.network import SplitNetwork, freeze


def train_original(
    spec: ArchitectureSpec,
    images: Tensor,
    labels: Tensor,
    preprocessing: Preprocessing,
    compute: Compute,
    *,
    epochs: int,
    augmentation: Augmentation,
    batch_size: int = 128,
    learning_rate: float = 0.1,
    is_adaptive: bool = False,
    seed: int = 0,
) -> SplitNetwork:
    """images: uint8 (N, C, H, W); labels: int64 (N,). Returns the network after the last epoch, frozen.

    is_adaptive: learn with AdamW, for networks that SGD makes diverge, such as a transformer; a learning_rate of 0.001
    suits it.
    """
    torch.manual_seed(seed)
    generator = Generator().manual_seed(seed)
    network = compute.place(build(spec)).train()
    images, labels = images.to(compute.device), labels.to(compute.device)
    steps_per_epoch = -(-len(images) // batch_size)
    optimiser: torch.optim.Optimizer
    if is_adaptive:
        optimiser = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=0.05)
    else:
        optimiser = torch.optim.SGD(
            network.parameters(), lr=learning_rate, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
    schedule = OneCycleLR(optimiser, learning_rate, total_steps=steps_per_epoch * epochs)
    for _ in range(epochs):
        for chosen in torch.randperm(len(images), generator=generator).tensor_split(steps_per_epoch):
            chosen = chosen.to(compute.device)
            with compute.autocast():
                logits = network(compute.inputs(augmentation(images[chosen], generator), preprocessing))
            loss = F.cross_entropy(logits.float(), labels[chosen])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    freeze(network)
    return network
