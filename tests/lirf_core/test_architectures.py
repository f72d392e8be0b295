import json
import subprocess
import sys
from dataclasses import asdict

import pytest
import torch
import torchvision
from torch import nn

from lirf_core import artifacts, quantisation
from lirf_core.architectures import (
    ARCHITECTURES,
    ArchitectureSpec,
    UnfitImageSize,
    UnknownArchitecture,
    UnknownSplit,
    build,
    check_image_size,
    default_split,
    has_image_size,
    outline,
    split_sequential,
    splits_of,
)
from lirf_core.deposit import MODULE_BUDGET
from lirf_core.network import SplitNetwork, flat_state, load_flat_state
from lirf_core.recover import RecoverNetwork
from tests.lirf_core import factories

TORCHVISIONS = [name for name in ARCHITECTURES if not name.endswith("-small")]


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_a_split_torchvision_network_answers_the_same(name: str) -> None:
    whole = torchvision.models.get_model(name, num_classes=7).eval()
    network = build(ArchitectureSpec(name, classes=7)).eval()
    load_flat_state(network, whole.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(images), whole(images))


@pytest.mark.parametrize("name", ["resnet18", "resnet50-small"])
@pytest.mark.parametrize("split", splits_of("resnet18"))
def test_a_resnet_has_the_same_parameters_at_every_split(name: str, split: str) -> None:
    spec = ArchitectureSpec(name, classes=3)
    with torch.device("meta"):
        network, other = build(spec, split).eval(), build(spec)
        assert artifacts.expected_shapes(network) == artifacts.expected_shapes(other)
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_every_architecture_accepts_torchvisions_weights_and_runs_at_its_default_split(name: str) -> None:
    with torch.device("meta"):
        whole = torchvision.models.get_model(name, num_classes=7)
        network = build(ArchitectureSpec(name, classes=7)).eval()
        assert artifacts.expected_shapes(network) == {key: tuple(t.shape) for key, t in whole.state_dict().items()}
        images = torch.zeros(1, 3, *([224, 224] if has_image_size(name) else [64, 32]))
        assert network.lower(images).dim() == 4
        assert network(images).shape == (1, 7)


@pytest.mark.parametrize("name", TORCHVISIONS)
def test_no_architecture_has_a_strided_convolution_that_onednn_gets_wrong(name: str) -> None:
    """docs/decisions/0007: a strided 1x1 convolution whose channels are not a multiple of 8."""
    with torch.device("meta"):
        network = build(ArchitectureSpec(name, classes=7))
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.stride != (1, 1):
            assert module.in_channels % 8 == module.out_channels % 8 == 0


@pytest.mark.parametrize("name", ["resnet18", "vgg11_bn", "mobilenet_v2", "densenet121", "vit_b_32"])
def test_networks_can_take_grey_images(name: str) -> None:
    with torch.device("meta"):
        network = build(ArchitectureSpec(name, classes=3, channels=1)).eval()
        assert network(torch.zeros(1, 1, 224, 224)).shape == (1, 3)


@pytest.mark.slow
def test_no_layer_of_a_network_is_random() -> None:
    for name in TORCHVISIONS:
        with torch.device("meta"):
            network = build(ArchitectureSpec(name, classes=3))
        for module in network.modules():
            probabilities = (
                getattr(module, "p", 0.0),
                getattr(module, "dropout", 0.0),
                getattr(module, "drop_rate", 0.0),
            )
            assert all(value == 0 for value in probabilities if isinstance(value, float)), (name, module)


def test_naming_an_architecture_does_not_import_torchvision() -> None:
    code = "import sys, lirf_core.architectures; sys.exit('torchvision' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_small_form_keeps_the_resolution_up_to_the_first_stride() -> None:
    network = build(ArchitectureSpec("resnet18-small", classes=10, width=0.5), "layer2")
    assert network.lower(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 16, 16)
    assert sum(parameter.numel() for parameter in network.lower.parameters()) == 169_760


def test_unknown_names_are_refused_and_the_known_ones_listed() -> None:
    with pytest.raises(UnknownArchitecture, match=r"no architecture 'vgg'\. The architectures are resnet18"):
        ArchitectureSpec("vgg", classes=10)
    with pytest.raises(UnknownSplit, match=r"resnet18 has no split 'layer9'\. It can be split after stem"):
        build(ArchitectureSpec("resnet18", classes=10), "layer9")
    with pytest.raises(UnknownSplit, match=r"vgg11_bn has no split 'layer2'\. It can be split after features.3, feat"):
        build(ArchitectureSpec("vgg11_bn", classes=10), "layer2")
    with pytest.raises(UnknownSplit, match="resnet18 has no split ''"):
        build(ArchitectureSpec("resnet18", classes=10), "")


@pytest.mark.parametrize(
    "arguments",
    [
        {"classes": 1},
        {"channels": 2},
        {"width": 9.0},
        {"width": 0.5},
        {"image_size": 32},
        {"name": "vit_b_16", "image_size": 40},
        {"name": "vit_b_32", "image_size": 16},
        {"name": "vit_b_16", "width": 0.5},
    ],
)
def test_a_spec_that_cannot_be_built_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|only the -small|only a ViT|takes (square )?images"):
        ArchitectureSpec(**{"name": "resnet18", "classes": 10, **arguments})  # type: ignore[arg-type]


def test_images_that_are_too_small_for_the_network_are_refused() -> None:
    check_image_size("resnet18", 8, 8)
    check_image_size("convnext_tiny", 32, 48)
    for name, smallest in {"vgg11_bn": 32, "densenet121": 29, "convnext_tiny": 32}.items():
        with pytest.raises(
            UnfitImageSize, match=f"{name} takes images of at least {smallest} by {smallest} pixels, not 28"
        ):
            check_image_size(name, 28, 64)
        with torch.device("meta"):
            network = build(ArchitectureSpec(name, classes=3)).eval()
            assert network(torch.zeros(1, 3, smallest, 64)).shape == (1, 3)
            with pytest.raises(RuntimeError, match=r"too small|[Kk]ernel size"):
                network(torch.zeros(1, 3, smallest - 1, 64))


def test_descriptions_without_an_image_size_are_still_valid() -> None:
    stored = {"name": "resnet18", "classes": 10, "width": 1.0, "channels": 3}
    spec = ArchitectureSpec(**stored)  # type: ignore[arg-type]
    assert spec.description() == stored
    vit = ArchitectureSpec("vit_b_16", classes=10, image_size=64)
    assert ArchitectureSpec(**vit.description()) == vit  # type: ignore[arg-type]
    assert vit.description() == asdict(vit)


def test_a_part_that_was_stored_without_an_image_size_still_loads() -> None:
    network, own = factories.network(), factories.belonging(factories.network())
    old = json.dumps(
        {"channels": 1, "classes": 5, "name": "resnet18-small", "width": factories.SPEC.width}, sort_keys=True
    )
    assert own.metadata("lower")["architecture"] == old
    stored = factories.dump_upper(network, own), artifacts.dump_lower(network, own)
    assert isinstance(artifacts.load_network(*stored, own), SplitNetwork)


def test_weights_of_a_vit_for_another_image_size_are_refused() -> None:
    with torch.device("meta"):
        sizes = [
            artifacts.expected_shapes(build(ArchitectureSpec("vit_b_16", 3, image_size=size))) for size in (224, 64)
        ]
    with pytest.raises(
        artifacts.DoesNotFit, match=r"'encoder.pos_embedding' has shape \[1, 197, 768\]; .* \[1, 17, 768\]"
    ):
        artifacts.check_fits(*sizes)


def test_the_default_split_is_one_of_the_splits() -> None:
    for name in ARCHITECTURES:
        assert default_split(name) in splits_of(name)
        assert all(len(split) <= 20 for split in splits_of(name)), "the database column holds 20 characters"


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("classes", [10, 1000])
def test_a_module_at_the_default_split_is_within_its_budget(name: str, classes: int) -> None:
    """Without pruning, in 4 bits or more."""
    network = outline(ArchitectureSpec(name, classes))
    budget = int(MODULE_BUDGET * sum(tensor.nbytes for tensor in flat_state(network).values()))
    bits = quantisation.bits_within(network.lower, budget)
    assert quantisation.stored_bytes(network.lower, bits) <= budget


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_at_the_default_split_there_are_several_pixels_even_of_small_images(name: str) -> None:
    spec = ArchitectureSpec(name, classes=10, **({"image_size": 64} if has_image_size(name) else {}))
    size = 64 if has_image_size(name) else 32
    with torch.device("meta"):
        features = build(spec).eval().lower(torch.zeros(1, 3, size, size))
    assert features.shape[2] * features.shape[3] >= 4


def blocks() -> nn.Sequential:
    torch.manual_seed(0)
    network = nn.Sequential()
    network.add_module("first", nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU()))
    network.add_module("second", nn.Sequential(nn.Conv2d(16, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16)))
    network.add_module("active", nn.ReLU(inplace=True))
    network.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)))
    return network.eval()


def test_a_sequential_network_is_split_deposited_and_withdrawn() -> None:
    whole = blocks()
    network, images = split_sequential(whole, "active"), torch.randn(3, 1, 8, 8)
    assert torch.equal(network(images), whole(images))
    assert list(flat_state(network)) == list(whole.state_dict())

    result = factories.deposit_of(network, factories.PREPROCESSING)
    assert result.module.lower.get_submodule("first.0").weight.shape[0] == 8
    recover = RecoverNetwork(result.target, [result.module], result.module.upper_digest, [2, 3, 4])
    assert torch.equal(recover(images)[:, 2:], result.target(images)[:, 2:])
    torch.testing.assert_close(recover(images)[:, :2], network.upper(result.module(images))[:, :2])


@pytest.mark.parametrize(
    ("after", "message"),
    [
        ("third", r"This network has no split 'third'\. It can be split after first, second, active"),
        ("head", "This network has no split 'head'"),
        ("second", r"'active', right after 'second', works in place\. Split after it"),
    ],
)
def test_a_split_that_cannot_work_is_refused(after: str, message: str) -> None:
    with pytest.raises(UnknownSplit, match=message):
        split_sequential(blocks(), after)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 5))
    with pytest.raises(UnknownSplit, match="'0' flattens the features"):
        split_sequential(flat, "1")
