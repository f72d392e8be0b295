"""A fused part is the same function in fewer steps."""

import threading
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import pytest
import torch
from torch import nn

from lirf_core.architectures import ArchitectureSpec, build, has_image_size
from lirf_core.fuse import fuse_module, fuse_network
from lirf_core.network import freeze
from lirf_core.pruning import example_input, prune
from lirf_core.recover import DepositModule

SIZE = 32
REMAINING = {"densenet121": 62}  # batch norms that do not follow a convolution
FAMILIES = ["resnet18", "resnet50-small", "vgg11_bn", "mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"]
FAMILIES += ["densenet121", "convnext_tiny", "vit_b_32"]


def batch_norms(part: nn.Module) -> int:
    names = (getattr(one, "original_name", type(one).__name__) for one in part.modules())
    return sum(name == "BatchNorm2d" for name in names)


@pytest.mark.slow
@torch.no_grad()
@pytest.mark.parametrize("name", FAMILIES)
def test_a_fused_network_answers_as_before(name: str) -> None:
    spec = ArchitectureSpec(name, classes=5, **({"image_size": SIZE} if has_image_size(name) else {}))
    network, images = build(spec), torch.randn(2, 3, SIZE, SIZE)
    network(torch.randn(8, 3, SIZE, SIZE))  # so that batch-norm statistics are not those of a new network
    freeze(network)
    fused = fuse_network(deepcopy(network), images[:1])
    for count in (1, 2, 5):
        some = torch.cat([images] * 3)[:count]
        assert torch.allclose(fused(some), network(some), atol=1e-4, rtol=1e-3)
    assert isinstance(fused.lower, torch.jit.ScriptModule)
    assert batch_norms(fused) == REMAINING.get(name, 0)


def test_a_fused_module_answers_as_before() -> None:
    network = build(ArchitectureSpec("resnet18", classes=5), "layer2")
    module = DepositModule(prune(network.lower, 0.5, example_input(3, (SIZE, SIZE))), [1], "digest", "eq8", 0.5)
    freeze(module)
    images = torch.randn(2, 3, SIZE, SIZE)
    fused = fuse_module(deepcopy(module), images[:1])
    assert torch.allclose(fused(images), module(images), atol=1e-4, rtol=1e-3)
    assert (batch_norms(module.lower), batch_norms(fused.lower)) == (10, 0)
    assert (fused.classes, fused.upper_digest, fused.joining, fused.weight) == ((1,), "digest", "eq8", 0.5)


@pytest.mark.slow
@torch.no_grad()
def test_a_network_can_be_fused_while_another_thread_uses_it() -> None:
    """It failed with torch.fx, whose tracing changes how modules are called in all threads."""
    network, images = build(ArchitectureSpec("resnet18", classes=5)), torch.randn(1, 3, SIZE, SIZE)
    freeze(network)
    expected, is_finished = network(images), threading.Event()

    def answer() -> int:
        count = 0
        while not is_finished.is_set():
            with torch.no_grad():
                assert torch.equal(network(images), expected)
            count += 1
        return count

    with ThreadPoolExecutor(1) as pool:
        answers = pool.submit(answer)
        for _ in range(20):
            fuse_network(deepcopy(network), images[:1])
        is_finished.set()
        assert answers.result() > 0
