"""The smallest member of each family, for real: split, pruned, deposited and withdrawn."""

from dataclasses import replace

import pytest
import torch
import torchvision
from torch import Tensor, nn

from lirf_core import artifacts
from lirf_core.architectures import ArchitectureSpec, build, default_split, has_image_size, splits_of
from lirf_core.artifacts import Belonging
from lirf_core.images.preprocessing import Preprocessing
from lirf_core.network import SplitNetwork, digest, load_flat_state
from lirf_core.pruning import prune, rebuild, widths
from lirf_core.recover import RecoverNetwork
from tests.lirf_core.factories import deposit_of, network

pytestmark = pytest.mark.slow

SIZE = 32
PREPROCESSING = Preprocessing(SIZE, SIZE, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
SMALLEST = ["mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "densenet121", "convnext_tiny"]
LARGE = ["vgg11_bn", "vit_b_32"]


def spec_of(name: str) -> ArchitectureSpec:
    return ArchitectureSpec(name, classes=5, **({"image_size": SIZE} if has_image_size(name) else {}))


def some(count: int) -> Tensor:
    return torch.randn(count, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[*SMALLEST, *LARGE])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@torch.no_grad()
def test_split_anywhere_it_answers_as_torchvisions_network_does(name: str) -> None:
    spec, images = spec_of(name), some(2)
    size = {"image_size": SIZE} if has_image_size(name) else {}
    whole = torchvision.models.get_model(name, num_classes=5, **size).eval()
    expected = whole(images)
    for split in splits_of(name):
        with torch.device("meta"):
            parts = build(spec, split).eval()
        made = parts.to_empty(device="cpu")
        load_flat_state(made, whole.state_dict())
        assert made.lower(images).dim() == 4
        assert torch.equal(made(images), expected), split


def test_pruned_at_any_split_it_keeps_its_output_and_is_rebuilt_from_its_widths(name: str) -> None:
    spec, images = spec_of(name), some(2)
    # Two splits of the large ones; the others show that pruning follows what each further block brings.
    splits = splits_of(name) if name in SMALLEST else (splits_of(name)[1], default_split(name))
    for split in splits:
        lower = network(spec=spec, split=split).lower
        pruned = prune(lower, 0.5, images[:1])
        assert pruned(images).shape == lower(images).shape
        full, left = widths(lower), widths(pruned)
        assert all(new == old or new % 8 == 0 for key in full for new, old in zip(left[key], full[key], strict=True))
        with torch.device("meta"):
            again = rebuild(build(spec, split).lower.eval(), left)
        again.to_empty(device="cpu").load_state_dict(pruned.state_dict())
        assert torch.equal(again(images), pruned(images)), split


def test_half_of_the_filters_take_a_good_part_of_the_parameters_with_them(name: str) -> None:
    lower = network(spec=spec_of(name), split=default_split(name)).lower
    before, after = (
        sum(parameter.numel() for parameter in part.parameters()) for part in (lower, prune(lower, 0.5, some(1)))
    )
    assert 0.2 < after / before < 0.75


def test_deposited_and_withdrawn_it_answers_by_equation_8(name: str) -> None:
    spec, split, images = spec_of(name), default_split(name), some(3)
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
        made = build(spec, "encoder_layer_0").eval()
        assert made.lower(torch.zeros(2, 3, 64, 64)).shape == (2, 768, 1 + 4, 1)


def test_the_last_linear_layer_sees_one_vector_an_image(name: str) -> None:
    seen: list[torch.Size] = []
    with torch.device("meta"):
        made = build(spec_of(name)).eval()
        last = [module for module in made.upper.modules() if isinstance(module, nn.Linear)][-1]
        last.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape))
        made(torch.zeros(2, 3, SIZE, SIZE))
    assert seen == [(2, last.in_features)]
    assert last.out_features == 5
