"""The rows of deposited classes leave the network and travel with the deposit module."""

from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from lirf_core import artifacts
from lirf_core import class_rows as rows
from lirf_core.architectures import ARCHITECTURES, ArchitectureSpec, outline, split_sequential
from lirf_core.artifacts import DoesNotFit
from lirf_core.class_rows import ABSENT_LOGIT, NoRows
from lirf_core.evidence.relearning import relearning_curve
from lirf_core.fuse import fuse_module, fuse_network
from lirf_core.images.preprocessing import Augmentation
from lirf_core.network import SplitNetwork, digest
from lirf_core.recover import DepositModule, ForeignUpperPart, RecoverNetwork, answers
from tests.lirf_core.factories import CPU, PREPROCESSING, belonging, dump_upper, images, network

UPPER = digest(network().upper)


def without(*classes: int) -> SplitNetwork:
    bare = network()
    rows.remove(bare, classes)
    return bare


def module(classes: list[int], seed: int, has_rows: bool = True) -> DepositModule:
    own = rows.take(network(), classes) if has_rows else None
    return DepositModule(network(seed).lower, classes, UPPER, weight=0.5, rows=own).eval()


def pixels(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_ends_with_rows(name: str) -> None:
    upper = outline(ArchitectureSpec(name, 7)).upper
    trunk, last = rows.split_last(upper)
    layer = rows.last_layer_name(upper)
    assert last.out_features == 7
    assert {*trunk.state_dict(), f"{layer}.weight", f"{layer}.bias"} == {*upper.state_dict()}


@pytest.mark.parametrize("last", [nn.Linear(4, 3, bias=False), nn.Sequential(nn.Linear(4, 3), nn.Flatten())])
def test_a_network_that_ends_otherwise_has_no_rows(last: nn.Module) -> None:
    blocks = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), last))
    with pytest.raises(NoRows):
        rows.present(split_sequential(blocks, after="0"))


@torch.no_grad()
@pytest.mark.parametrize("count", [1, 2, 7, 64])
def test_a_row_that_is_gone_changes_no_other_logit(count: int) -> None:
    whole, bare = network()(pixels(count)), without(1, 4)(pixels(count))
    assert torch.equal(bare[:, [0, 2, 3]], whole[:, [0, 2, 3]])
    assert (bare[:, [1, 4]] == ABSENT_LOGIT).all()
    assert (bare.softmax(1)[:, [1, 4]] == 0).all()


@torch.no_grad()
def test_an_absent_logit_is_finite_in_bfloat16() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert without(0)(pixels(2)).isfinite().all()


def test_what_is_removed_is_overwritten_and_comes_back_the_same() -> None:
    bare = without(0, 3)
    _, last = rows.split_last(bare.upper)
    assert not last.weight[[0, 3]].any()
    assert (bare.absent, rows.present(bare)) == ({0, 3}, [1, 2, 4])
    rows.put_back(bare, [rows.take(network(), [3, 0])])
    assert not bare.absent
    assert digest(bare.upper) == UPPER


@torch.no_grad()
@pytest.mark.parametrize("is_fused", [False, True])
def test_a_recover_network_without_rows_answers_as_one_with_rows(is_fused: bool) -> None:
    """To the last bit, alone and in a batch with views that lack a module."""

    def fused(target: SplitNetwork, modules: list[DepositModule]) -> tuple[SplitNetwork, list[DepositModule]]:
        example = pixels(1)
        return (fuse_network(target, example), [fuse_module(one, example) for one in modules])

    def joined(target: SplitNetwork, has_rows: bool) -> list[RecoverNetwork]:
        modules = [module([0, 3], 1, has_rows), module([1], 2, has_rows)]
        if is_fused:
            target, modules = fused(target, modules)
        return [RecoverNetwork(target, own, UPPER, [2, 4]) for own in (modules, modules[:1], modules[1:], [])]

    old, new = joined(network(), has_rows=False), joined(without(0, 1, 3), has_rows=True)
    absent: list[list[int]] = [[], [1], [0, 3], [0, 1, 3]]
    inputs = [pixels(count, seed) for seed, count in enumerate((3, 1, 4, 2))]
    batched = zip(answers(old, inputs), answers(new, inputs), strict=True)
    alone = [(before(images), after(images)) for before, after, images in zip(old, new, inputs, strict=True)]
    for pairs in (batched, alone):
        for (expected, answer), classes in zip(pairs, absent, strict=True):
            shown = [index for index in range(5) if index not in classes]
            assert torch.equal(answer[:, shown], expected[:, shown])
            assert (answer[:, classes] == ABSENT_LOGIT).all()


def test_stored_parts_have_each_row_once() -> None:
    original, own = network(), belonging(network())
    kept = artifacts.dump_rows(rows.take(original, [1, 2, 4]), own)
    stored = artifacts.dump_module(module([0, 3], 1), own)
    trunk, lower = artifacts.dump_trunk(original, own), artifacts.dump_lower(original, own)
    _, last = rows.split_last(original.upper)
    for index in range(5):
        holders = [part for part in (trunk, lower, kept, stored) if bytes_of(last.weight[index]) in part]
        assert holders == [stored if index in (0, 3) else kept]

    loaded = artifacts.load_network(trunk, lower, own, kept)
    assert loaded.absent == {0, 3}
    deposited = artifacts.load_module(stored, own).rows
    assert deposited
    rows.put_back(loaded, [deposited])
    assert digest(loaded.upper) == UPPER
    again = artifacts.module_rows(stored, own)
    assert again
    assert torch.equal(again.digests(), deposited.digests())


def bytes_of(tensor: Tensor) -> bytes:
    return tensor.detach().numpy().tobytes()


def test_a_module_of_an_earlier_version_has_no_rows() -> None:
    stored = artifacts.dump_module(module([0], 1, has_rows=False), belonging(network()))
    assert artifacts.load_module(stored, belonging(network())).rows is None
    assert artifacts.module_rows(stored, belonging(network())) is None


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda state: {**state, "fc.weight": state["fc.weight"] + 1}, ForeignUpperPart, "registered with"),
        (lambda state: {**state, "row_classes": state["row_classes"].flip(0)}, ForeignUpperPart, "registered with"),
        (lambda state: {**state, "fc.weight": state["fc.weight"][1:]}, DoesNotFit, "for 3 classes"),
        (lambda state: {"row_classes": state["row_classes"]}, DoesNotFit, "not those of a last layer"),
        (lambda state: {**state, "conv1.weight": torch.zeros(1)}, DoesNotFit, "not those of a last layer"),
    ],
)
def test_foreign_rows_are_refused(change: Any, error: type[Exception], message: str) -> None:
    original, own = network(), belonging(network())
    kept = artifacts.dump_rows(rows.take(original, [1, 2, 4]), own)
    state = change(safetensors.torch.load(kept))
    changed = safetensors.torch.save(
        {name: tensor.contiguous() for name, tensor in state.items()}, artifacts.metadata_of(kept)
    )
    trunk, lower = artifacts.dump_trunk(original, own), artifacts.dump_lower(original, own)
    with pytest.raises(error, match=message):
        artifacts.load_network(trunk, lower, own, changed)


def test_a_whole_upper_part_is_no_trunk() -> None:
    original, own = network(), belonging(network())
    kept, lower = artifacts.dump_rows(rows.take(original, [1]), own), artifacts.dump_lower(original, own)
    with pytest.raises(DoesNotFit, match="part"):
        artifacts.load_network(dump_upper(original, own), lower, own, kept)
    with pytest.raises(DoesNotFit, match="part"):
        artifacts.load_network(artifacts.dump_trunk(original, own), lower, own)


def test_a_class_without_a_row_can_be_relearnt() -> None:
    few = images(20, [0, 1, 2, 3, 4])
    bare = without(0)
    arguments = few, few, [0], PREPROCESSING, Augmentation(0, False), CPU
    start, end = relearning_curve(bare, *arguments, steps=(0, 30))
    assert bare.absent == {0}
    assert (end.deposited or 0) > (start.deposited or 0)


def test_a_network_without_rows_answers_the_other_classes_as_before() -> None:
    whole, asked = network(), pixels(6)
    before = digest(whole.upper)
    smaller = rows.without_rows(whole, [4, 2, 3])
    assert torch.allclose(smaller(asked), whole(asked)[:, 2:], atol=1e-4)
    assert rows.last_layer(smaller.upper).out_features == 3
    assert digest(whole.upper) == before


def test_new_rows_are_the_mean_of_the_others_and_say_nothing() -> None:
    whole, asked = network(), pixels(6)
    logits = rows.with_rows(rows.without_rows(whole, [1, 3, 4]), [1, 3, 4], 5)(asked)
    assert torch.allclose(logits[:, [1, 3, 4]], whole(asked)[:, [1, 3, 4]], atol=1e-4)
    for created in (0, 2):
        assert torch.allclose(logits[:, created], logits[:, [1, 3, 4]].mean(1), atol=1e-4)


def test_a_network_with_every_row_stays_as_it_is() -> None:
    assert digest(rows.with_rows(network(), range(5), 5).upper) == digest(network().upper)


@torch.no_grad()
def test_rows_that_are_spread_answer_like_those_of_a_network_that_lost_the_others() -> None:
    larger = rows.spread(rows.without_rows(network(), [0, 2, 3]), [0, 2, 3], 5)
    assert digest(larger.upper) == digest(without(1, 4).upper)
    assert larger.absent == {1, 4}
