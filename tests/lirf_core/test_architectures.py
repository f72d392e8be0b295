import pytest
import torch
import torchvision

from lirf_core.architectures import ARCHITECTURES, SPLITS, ArchitectureSpec, UnknownArchitecture, UnknownSplit, build
from lirf_core.network import flat_state, load_flat_state


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_a_torchvision_network_answers_the_same_when_it_is_split(name: str) -> None:
    whole = torchvision.models.get_model(name, num_classes=7).eval()
    network = build(ArchitectureSpec(name, classes=7)).eval()
    load_flat_state(network, whole.state_dict())
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(network(images), whole(images))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("split", SPLITS)
def test_every_architecture_has_the_same_parameters_at_every_split(name: str, split: str) -> None:
    spec = ArchitectureSpec(name, classes=3)
    with torch.device("meta"):
        network, other = build(spec, split).eval(), build(spec, "layer2")
        shapes = {key: value.shape for key, value in flat_state(network).items()}
        assert shapes == {key: value.shape for key, value in flat_state(other).items()}
        assert network(torch.zeros(1, 3, 32, 32)).shape == (1, 3)


def test_the_small_form_keeps_the_resolution_until_the_first_stride() -> None:
    network = build(ArchitectureSpec("resnet18-small", classes=10, width=0.5))
    assert network.lower(torch.zeros(1, 3, 32, 32)).shape == (1, 64, 16, 16)
    assert sum(parameter.numel() for parameter in network.lower.parameters()) == 169_760


def test_unknown_names_are_refused_with_the_known_ones() -> None:
    with pytest.raises(UnknownArchitecture, match=r"no architecture 'vgg'; there are resnet18"):
        ArchitectureSpec("vgg", classes=10)
    with pytest.raises(UnknownSplit, match=r"'layer9' is no split of resnet18; it may be split after stem"):
        build(ArchitectureSpec("resnet18", classes=10), "layer9")


@pytest.mark.parametrize("arguments", [{"classes": 1}, {"channels": 2}, {"width": 9.0}, {"width": 0.5}])
def test_a_spec_that_cannot_be_built_is_refused(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r"must be|only the -small"):
        ArchitectureSpec(**{"name": "resnet18", "classes": 10, **arguments})  # type: ignore[arg-type]
