import pytest
import torch

from lirf_core.compute import Compute
from lirf_core.deposit import deposit
from lirf_core.metrics import logits_of
from tests.lirf_core.factories import PREPROCESSING, QUICK, images, network

# What a GPU gets, on the CPU, which has bf16 and channels-last too.
LIKE_CUDA = Compute(torch.device("cpu"), torch.bfloat16, torch.channels_last)


def test_a_deposit_runs_in_bf16_and_channels_last_and_keeps_float32_weights() -> None:
    pixels, labels = images(24, [0, 1])
    result = deposit(network(), pixels, labels, [0, 1], [2, 3, 4], PREPROCESSING, QUICK, LIKE_CUDA)
    weight = result.target.lower.get_submodule("layer1.0.conv1").weight
    assert isinstance(weight, torch.Tensor)
    assert weight.is_contiguous(memory_format=torch.channels_last)
    assert {parameter.dtype for parameter in result.target.parameters()} == {torch.float32}
    answers = logits_of(result.target, pixels, PREPROCESSING, LIKE_CUDA)
    assert answers.dtype == torch.float32
    assert torch.allclose(answers, logits_of(result.target, pixels, PREPROCESSING, Compute.pick("cpu")), atol=0.1)


def test_a_device_that_is_not_there_is_refused_with_what_to_do() -> None:
    if torch.cuda.is_available():
        assert Compute.pick().device.type == "cuda"
    else:
        assert Compute.pick() == Compute.pick("cpu")
        with pytest.raises(RuntimeError, match="use 'cpu' or 'auto'"):
            Compute.pick("cuda:0")
