import pytest
import torch

from lirf_core.compute import Compute, OutOfMemory, memory_errors
from lirf_core.deposit import deposit
from lirf_core.metrics import logits_of
from lirf_core.network import digest
from lirf_core.training import Run
from tests.lirf_core.factories import CPU, PREPROCESSING, QUICK, images, lesson, network

# What a GPU gets, also on a CPU without native bf16, which computes it slowly.
LIKE_CUDA = Compute(torch.device("cpu"), torch.bfloat16)


def test_a_deposit_runs_in_bf16_and_channels_last_and_keeps_float32_weights() -> None:
    result = deposit(network(), lesson(), Run(QUICK, LIKE_CUDA))
    weight = result.target.lower.get_submodule("layer1.0.conv1").weight
    assert isinstance(weight, torch.Tensor)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert {parameter.dtype for parameter in result.target.parameters()} == {torch.float32}
    pixels, _ = images(24, [0, 1])
    answers = logits_of(result.target, pixels, PREPROCESSING, LIKE_CUDA)
    assert answers.dtype == torch.float32
    assert torch.allclose(answers, logits_of(result.target, pixels, PREPROCESSING, CPU), atol=0.1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_device_is_refused_with_advice() -> None:
    assert Compute.for_training() == Compute.for_training("cpu")
    for pick in (Compute.for_training, Compute.for_inference):
        with pytest.raises(RuntimeError, match="Use 'cpu' or 'auto'"):
            pick("cuda:0")


def test_a_cpu_answers_in_float32_and_trains_in_bf16_if_it_has_instructions_for_it() -> None:
    assert Compute.for_inference("cpu").autocast_type is None
    has_bf16 = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16"))
    assert (Compute.for_training("cpu").autocast_type is torch.bfloat16) == has_bf16


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_cuda_device_is_used_and_deposits_reproducibly() -> None:
    compute = Compute.for_training()
    assert compute.device.type == "cuda"
    first, second = (deposit(network(), lesson(), Run(QUICK, compute)) for _ in range(2))
    assert digest(first.target.lower) == digest(second.target.lower)


def test_a_cpu_out_of_memory_is_distinguished_from_other_errors() -> None:
    with pytest.raises(OutOfMemory), memory_errors():
        torch.empty(1 << 60, dtype=torch.uint8)
    with pytest.raises(RuntimeError, match="size"), memory_errors():
        torch.ones(2) @ torch.ones(3)
