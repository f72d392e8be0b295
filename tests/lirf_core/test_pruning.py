import copy

import pytest
import torch

from lirf_core.architectures import ArchitectureSpec, build, splits_of
from lirf_core.pruning import prune, rebuild, widths


def parameters(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def test_resnet18_up_to_layer2_loses_a_known_number_of_parameters_at_half() -> None:
    lower = build(ArchitectureSpec("resnet18", classes=1000), "layer2").lower
    assert parameters(lower) == 683_072
    assert parameters(prune(lower, 0.5, torch.zeros(1, 3, 64, 64))) == 286_624


@pytest.mark.parametrize("split", splits_of("resnet18"))
@pytest.mark.parametrize("name", ["resnet18-small", "resnet50"])
def test_the_output_keeps_its_width_and_the_widths_rebuild_the_network(name: str, split: str) -> None:
    spec = ArchitectureSpec(name, classes=10)
    lower = build(spec, split).lower.eval()
    images = torch.randn(2, 3, 32, 32)
    pruned = prune(lower, 0.5, images[:1]).eval()
    assert pruned(images).shape == lower(images).shape

    again = rebuild(build(spec, split).lower, widths(pruned)).eval()
    again.load_state_dict(pruned.state_dict())
    assert torch.equal(again(images), pruned(images))


def test_the_filters_with_the_largest_l1_norms_remain() -> None:
    lower = build(ArchitectureSpec("resnet18-small", classes=10, width=0.25)).lower
    first = lower.get_submodule("layer1.0.conv1").weight
    pruned = prune(lower, 0.5, torch.zeros(1, 3, 16, 16))
    remaining = pruned.get_submodule("layer1.0.conv1").weight
    assert remaining.shape[0] == first.shape[0] // 2
    # Its input shrinks with the stem, so compare only the inputs that remain.
    stem_remaining = [
        i
        for i, f in enumerate(lower.get_submodule("conv1").weight)
        if any(torch.equal(f, g) for g in pruned.get_submodule("conv1").weight)
    ]
    norms = first.abs().sum(dim=(1, 2, 3))
    strongest = sorted(norms.topk(len(remaining)).indices.tolist())
    assert torch.equal(remaining, first[strongest][:, stem_remaining])


def test_a_rate_of_zero_copies_and_a_rate_of_one_is_refused() -> None:
    lower = build(ArchitectureSpec("resnet18-small", classes=10, width=0.125)).lower
    before = copy.deepcopy(lower.state_dict())
    same = prune(lower, 0.0, torch.zeros(1, 3, 8, 8))
    assert all(torch.equal(value, before[name]) for name, value in same.state_dict().items())
    with pytest.raises(ValueError, match="less than 1"):
        prune(lower, 1.0, torch.zeros(1, 3, 8, 8))


def test_untrusted_widths_are_checked() -> None:
    lower = build(ArchitectureSpec("resnet18-small", classes=10, width=0.125)).lower
    good = widths(lower)
    with pytest.raises(ValueError, match="pruned widths of 'conv1' are"):
        rebuild(copy.deepcopy(lower), {**good, "conv1": [3, 10**9]})
    with pytest.raises(ValueError, match=r"pruned widths of 'bn1' are \[8, 8\]"):
        rebuild(copy.deepcopy(lower), {**good, "bn1": [8, 8]})
    with pytest.raises(ValueError, match="name different layers"):
        rebuild(copy.deepcopy(lower), {**good, "conv9": [1, 1]})


def test_the_widths_of_a_depthwise_convolution_stay_equal() -> None:
    lower = build(ArchitectureSpec("mobilenet_v2", classes=10), "features.2").lower
    name = "features.2.conv.1.0"
    assert widths(lower)[name] == [96, 96]
    with pytest.raises(ValueError, match=rf"pruned widths of '{name}' are \[48, 96\]"):
        rebuild(lower, {**widths(lower), name: [48, 96]})


def test_a_rebuilt_batch_norm_keeps_its_constants() -> None:
    spec = ArchitectureSpec("mobilenet_v3_small", classes=10)
    lower = build(spec).lower
    again = rebuild(build(spec).lower, widths(prune(lower, 0.5, torch.zeros(1, 3, 32, 32))))
    name = "features.2.block.0.1"
    assert widths(again)[name] != widths(lower)[name]
    for new, old in zip(again.modules(), lower.modules(), strict=True):
        if isinstance(new, torch.nn.BatchNorm2d) and isinstance(old, torch.nn.BatchNorm2d):
            assert (new.eps, new.momentum) == (old.eps, old.momentum) == (0.001, 0.01)


def test_features_of_another_shape_are_refused() -> None:
    flat = torch.nn.Sequential(torch.nn.Conv2d(1, 8, 3), torch.nn.Flatten())
    with pytest.raises(ValueError, match=r"have shape \(1, 288\); they must be \(B, C, H, W\)"):
        prune(flat, 0.0, torch.zeros(1, 1, 8, 8))
