"""Which preserved logits should a recover network take, the working target's or the hardened network's? On digits.

`.venv/bin/python -m benchmarks.recover_logits`: some minutes on a CPU. See docs/decisions/0022.
"""

import json
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor

from demo.digits import AUGMENTATION, PREPROCESSING, SPEC, Digits, train
from lirf_core.architectures import build
from lirf_core.class_rows import spread
from lirf_core.compute import Compute
from lirf_core.config import DepositConfig, HardeningConfig
from lirf_core.deposit import deposit
from lirf_core.hardening import HardeningRun, Transfer, harden
from lirf_core.lesson import Lesson
from lirf_core.metrics import logits_of, tally
from lirf_core.network import digest
from lirf_core.proxies import make_proxies
from lirf_core.recover import RecoverNetwork
from lirf_core.training import Run

DEPOSITED, PRESERVED = [0, 1, 2], [3, 4, 5, 6, 7, 8, 9]
DEPOSIT = DepositConfig(epochs=10, batch_size=32, learning_rate=0.01, proxies=200, augmentation=AUGMENTATION)
HARDENING = HardeningConfig(batch_size=64, proxies=1000, augmentation=AUGMENTATION)
RESULT = Path("benchmarks/results/recover-logits-digits.json")
CPU = Compute.for_training("cpu")


def percents(logits: Tensor, labels: Tensor) -> dict[str, float | None]:
    """Percent of the images of each group of classes that are answered correctly, by all ten logits."""
    correct = tally(logits, labels)
    groups = {"preserved": PRESERVED, "deposited": DEPOSITED, "average": range(10)}
    return {name: correct.percent(list(classes)) for name, classes in groups.items()}


def once(seed: int) -> dict[str, dict[str, Any]]:
    """Percents of the held-out digits by network."""
    digits = Digits()
    original = train(digits, seed=seed)
    images, labels = digits.tensors(digits.of_classes(digits.training, DEPOSITED))
    held_out, answers = digits.tensors(digits.held_out)
    lesson = Lesson(images, labels, DEPOSITED, PRESERVED, PREPROCESSING)
    begun = time.monotonic()
    made = deposit(original, lesson, Run(replace(DEPOSIT, seed=seed), CPU))
    deposited = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    proxies = make_proxies(
        made.target, images, torch.tensor(PRESERVED), HARDENING.proxies, PREPROCESSING, CPU, generator
    )
    torch.manual_seed(seed)
    transfer = Transfer(torch.cat([images, proxies.images]), PRESERVED, PREPROCESSING)
    run = HardeningRun(replace(HARDENING, seed=seed), CPU)
    hardened = spread(harden(made.target, build(SPEC), transfer, run), PRESERVED, 10).eval()
    seconds = {"deposit": deposited - begun, "hardening": time.monotonic() - deposited}

    def ask(network: torch.nn.Module) -> Tensor:
        return logits_of(network, held_out, PREPROCESSING, CPU)

    of_target, of_hardened = ask(made.target), ask(hardened)
    of_module = ask(torch.nn.Sequential(made.module, made.target.upper))
    recover = RecoverNetwork(made.target, [made.module], digest(made.target.upper), PRESERVED)
    alone = torch.full_like(of_target, -1e9)
    alone[:, PRESERVED] = of_target[:, PRESERVED]
    logits = {
        "original": ask(original),
        "working target without rows": alone,
        "hardened network": of_hardened,
        "recover network, working target's logits": recover.join(of_target, [of_module]),
        "recover network, hardened network's logits": recover.join(of_hardened, [of_module]),
    }
    return {**{name: percents(own, answers) for name, own in logits.items()}, "seconds": seconds}


def main() -> None:
    seeds = [once(seed) for seed in range(2)]
    means = {
        name: {group: round(fmean(one[name][group] or 0.0 for one in seeds), 2) for group in seeds[0][name]}
        for name in seeds[0]
    }
    RESULT.write_text(json.dumps({"mean": means, "seeds": seeds}, indent=2) + "\n")
    for name, own in means.items():
        print(f"{name}: {own}")  # noqa: T201


if __name__ == "__main__":
    main()
