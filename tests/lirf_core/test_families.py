"""The smallest network of each family: split, pruned, deposited and withdrawn for real."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lirf_core import artifacts, removal
from lirf_core.architectures import ArchitectureSpec, build, default_split, has_image_size, splits_of
from lirf_core.belonging import Belonging
from lirf_core.checkpoints import ForeignCheckpoint
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.network import SplitNetwork, digest, flat_state, is_depthwise, load_flat_state
from lirf_core.pruning import prune, rebuild, widths
from lirf_core.recover import RecoverNetwork
from tests.lirf_core.factories import deposit_of, network

pytestmark = pytest.mark.slow

SIZE = 32
PREPROCESSING = Preprocessing(SIZE, SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SMALLEST = ["mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "convnext_tiny"]
LARGE = ["vgg11_bn", "vit_b_32"]
DEPTHWISE = ["mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0"]
WITHOUT_BATCH_NORM = ["convnext_tiny", "vit_b_32"]
ONE = torch.ones(1)


def spec_of(name: str) -> ArchitectureSpec:
    return ArchitectureSpec(name, classes=5, **({"image_size": SIZE} if has_image_size(name) else {}))


def random_images(count: int) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[*SMALLEST, *LARGE])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@torch.no_grad()
def test_split_anywhere_the_network_answers_like_torchvisions(name: str) -> None:
    spec, images = spec_of(name), random_images(2)
    size = {"image_size": SIZE} if has_image_size(name) else {}
    whole = torchvision.models.get_model(name, num_classes=5, **size).eval()
    expected = whole(images)
    for split in splits_of(name):
        with torch.device("meta"):
            parts = build(spec, split).eval()
        split_network = parts.to_empty(device="cpu")
        load_flat_state(split_network, whole.state_dict())
        assert split_network.lower(images).dim() == 4
        assert torch.equal(split_network(images), expected), split


def test_pruned_at_any_split_the_lower_part_keeps_its_output_and_can_be_rebuilt(name: str) -> None:
    spec, images = spec_of(name), random_images(2)
    # Only two splits of the large networks. The others show that pruning follows each further block.
    splits = splits_of(name) if name in SMALLEST else (splits_of(name)[1], default_split(name))
    for split in splits:
        lower = network(spec=spec, split=split).lower
        pruned = prune(lower, 0.5, images[:1])
        assert pruned(images).shape == lower(images).shape
        full, remaining = widths(lower), widths(pruned)
        assert all(
            new == old or new % 8 == 0 for key in full for new, old in zip(remaining[key], full[key], strict=True)
        )
        with torch.device("meta"):
            again = rebuild(build(spec, split).lower.eval(), remaining)
        again.to_empty(device="cpu").load_state_dict(pruned.state_dict())
        assert torch.equal(again(images), pruned(images)), split


def test_pruning_half_of_the_filters_removes_many_parameters(name: str) -> None:
    lower = network(spec=spec_of(name), split=default_split(name)).lower
    before, after = (
        sum(parameter.numel() for parameter in part.parameters())
        for part in (lower, prune(lower, 0.5, random_images(1)))
    )
    assert 0.2 < after / before < 0.75


def test_after_a_withdrawal_the_network_answers_by_equation_8(name: str) -> None:
    spec, split, images = spec_of(name), default_split(name), random_images(3)
    original = network(spec=spec, split=split)
    before = digest(original.lower)
    result = deposit_of(original, PREPROCESSING)
    upper_digest = digest(original.upper)
    assert digest(result.target.upper) == result.module.upper_digest == upper_digest
    assert digest(result.target.lower) != before == digest(original.lower)

    belonging = Belonging(spec, split, upper_digest)
    module = artifacts.load_module(artifacts.dump_module(result.module, belonging), belonging)
    assert digest(module.lower) == digest(result.module.lower)
    recover = RecoverNetwork(result.target, [module], upper_digest, [2, 3, 4])
    with torch.no_grad():
        by_hand = result.target(images)
        by_hand[:, [0, 1]] = original.upper(module(images))[:, [0, 1]]
        torch.testing.assert_close(recover(images), by_hand)


def test_the_target_of_a_depthwise_network_keeps_its_batch_norms_statistics(name: str) -> None:
    original = network(spec=spec_of(name), split=default_split(name))
    target = deposit_of(original, PREPROCESSING).target
    statistics = [
        torch.cat([value.flatten().float() for key, value in flat_state(one).items() if "running_" in key] or [ONE])
        for one in (original, target)
    ]
    assert is_depthwise(original.lower) is (name in DEPTHWISE)
    assert torch.equal(*statistics) is (name in DEPTHWISE or name in WITHOUT_BATCH_NORM)


def test_a_stopped_deposit_of_a_depthwise_network_goes_on_to_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    original = network(spec=spec_of("mobilenet_v3_small"), split=default_split("mobilenet_v3_small"))
    checkpoints: list[bytes] = []
    whole = deposit_of(original, PREPROCESSING, on_step=lambda step: checkpoints.append(step.checkpoint()))
    resumed = deposit_of(original, PREPROCESSING, checkpoint=checkpoints[0])
    assert digest(resumed.target.lower) == digest(whole.target.lower)
    assert digest(resumed.module.lower) == digest(whole.module.lower)
    monkeypatch.setattr(removal, "is_depthwise", lambda lower: False)  # as in the version that made the checkpoint
    with pytest.raises(ForeignCheckpoint):
        deposit_of(original, PREPROCESSING, checkpoint=checkpoints[0])


@pytest.mark.parametrize("name", SMALLEST)
def test_a_deposit_draws_nothing_from_the_global_generator(name: str) -> None:
    original = network(spec=spec_of(name), split=default_split(name))
    first, second = digests_after(original, global_seed=1), digests_after(original, global_seed=2)
    assert first == second


def digests_after(original: SplitNetwork, global_seed: int) -> tuple[str, str]:
    torch.manual_seed(global_seed)
    result = deposit_of(original, PREPROCESSING)
    return digest(result.target.lower), digest(result.module.lower)


def test_the_features_behind_a_vits_class_token_are_its_tokens() -> None:
    spec = replace(spec_of("vit_b_32"), image_size=64)
    with torch.device("meta"):
        vit = build(spec, "encoder_layer_0").eval()
        assert vit.lower(torch.zeros(2, 3, 64, 64)).shape == (2, 768, 1 + 4, 1)


def test_the_last_linear_layer_gets_one_vector_per_image(name: str) -> None:
    shapes: list[torch.Size] = []
    with torch.device("meta"):
        meta_network = build(spec_of(name)).eval()
        last = [module for module in meta_network.upper.modules() if isinstance(module, nn.Linear)][-1]
        last.register_forward_pre_hook(lambda _, inputs: shapes.append(inputs[0].shape))
        meta_network(torch.zeros(2, 3, SIZE, SIZE))
    assert shapes == [(2, last.in_features)]
    assert last.out_features == 5
