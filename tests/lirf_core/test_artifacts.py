import gzip
import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pytest
import safetensors
import safetensors.torch
import torch

from lirf_core import artifacts
from lirf_core.artifacts import DoesNotFit, NotSafetensors
from lirf_core.network import digest, flat_state
from lirf_core.pruning import example_input, prune
from lirf_core.quantisation import attach, settle
from lirf_core.recover import DepositModule, ForeignUpperPart
from tests.lirf_core.factories import SPEC, belonging, dump_upper, network


def weights(change: Callable[[dict[str, torch.Tensor]], object] = lambda state: None) -> io.BytesIO:
    state = {name: tensor.clone() for name, tensor in flat_state(network()).items()}
    change(state)
    return io.BytesIO(safetensors.torch.save(state))


def load(file: io.BytesIO) -> None:
    artifacts.load_original(file, SPEC, "layer2")


def test_weights_are_loaded_unchanged() -> None:
    loaded = artifacts.load_original(weights(), SPEC, "layer2")
    assert digest(loaded.lower) == digest(network().lower)
    assert digest(loaded.upper) == digest(network().upper)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(kind: torch.dtype) -> None:
    def change(state: dict[str, torch.Tensor]) -> None:
        for name, tensor in state.items():
            state[name] = tensor.to(kind) if tensor.is_floating_point() else tensor

    loaded = artifacts.load_original(weights(change), SPEC, "layer2")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


def test_weights_without_batch_counters_fit() -> None:
    load(weights(lambda state: [state.pop(name) for name in list(state) if name.endswith("num_batches_tracked")]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("layer1.0.conv1.weight"), r"'layer1.0.conv1.weight' of shape .* is missing"),
        (
            lambda state: state.update({"fc.bias": torch.zeros(9)}),
            r"'fc.bias' has shape \[9\]; the architecture needs \[5\]",
        ),
        (
            lambda state: state.update({"../../etc/passwd": torch.zeros(1)}),
            r"'../../etc/passwd' is not one of the architecture's",
        ),
        (lambda state: state["bn1.weight"].fill_(float("nan")), r"'bn1.weight' has values that are not finite"),
    ],
)
def test_weights_that_do_not_fit_are_refused_by_the_first_tensor_that_differs(
    change: Callable[[dict[str, torch.Tensor]], object], message: str
) -> None:
    with pytest.raises(DoesNotFit, match=message):
        load(weights(change))


def raw(header: object, data: bytes = b"") -> io.BytesIO:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return io.BytesIO(len(text).to_bytes(8, "little") + text + data)


def tensor(shape: list[object], begin: int, end: int, kind: str = "F32") -> dict[str, object]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


def numpy_zip() -> bytes:
    file = io.BytesIO()
    numpy.savez(file, weight=numpy.zeros(1))
    return file.getvalue()


def tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("weights"))
    return file.getvalue()


def torch_zip() -> bytes:
    file = io.BytesIO()
    torch.save({"fc.bias": torch.zeros(1)}, file)
    return file.getvalue()


def padded(header: object, data: bytes, header_bytes: int) -> io.BytesIO:
    """A file whose header has exactly this many bytes, filled up with spaces."""
    return raw(json.dumps(header).encode().ljust(header_bytes), data)


def test_a_header_of_any_length_is_read() -> None:
    """Some lengths begin like another format: 0x0280 like a pickle, 0x4B50 like a zip, 0x8B1F like a gzip file."""
    header = {"__metadata__": {"format": "pt"}, "a": tensor([1], 0, 4)}
    for header_bytes in [*range(256, 512), *(0x80 + 256 * high for high in range(2, 6)), 0x4B50, 0x8B1F]:
        assert artifacts.read_header(padded(header, bytes(4), header_bytes)).shapes == {"a": (1,)}


def test_weights_whose_header_begins_like_a_pickle_are_loaded() -> None:
    content = weights().getvalue()
    header_bytes = int.from_bytes(content[:8], "little")
    longer = header_bytes + (0x80 - header_bytes) % 256
    header = content[8 : 8 + header_bytes].ljust(longer)
    load(io.BytesIO(longer.to_bytes(8, "little") + header + content[8 + header_bytes :]))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        (io.BytesIO(pickle.dumps({"a": 1})), "This is a pickle, which is never loaded"),
        (io.BytesIO(torch_zip()), r"zip or torch\.save file\. Save the state dict with safetensors"),
        (io.BytesIO(numpy_zip()), r"NumPy archive \(npz\)\. Save the state dict with safetensors"),
        (io.BytesIO(b"\x93NUMPY\1\0" + bytes(100)), "NumPy array"),
        (io.BytesIO(b"\x89HDF\r\n\x1a\n" + bytes(100)), "HDF5 file, as Keras writes"),
        (io.BytesIO(gzip.compress(b"weights")), "gzip file"),
        (io.BytesIO(tar()), "tar archive"),
        (io.BytesIO(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), "Git LFS pointer"),
        (io.BytesIO(b"<!DOCTYPE html><title>Sign in</title>"), "web page"),
        (io.BytesIO(b'{"weight_map": {}}'), "JSON, perhaps an index"),
        (io.BytesIO(b""), "header length"),
        (io.BytesIO(b"abc"), "header length"),
        (io.BytesIO((1 << 60).to_bytes(8, "little") + b"{}"), "header length"),
        (raw(b"{nonsense}"), "not the JSON"),
        (raw([1, 2]), "not the JSON"),
        (raw(b"[" * 100_000), "not the JSON"),
        (raw(b'{"a": {}, "a": {}}'), "names a tensor twice"),
        (raw({"a": {}}), "not the JSON"),
        (raw({"a": tensor([2**62, 0], 0, 0)}), "not a whole number"),
        (raw({"a": tensor([-1], 0, 4)}, bytes(4)), "not a whole number"),
        (raw({"a": tensor([True], 0, 4)}, bytes(4)), "not a whole number"),
        (raw({"a": tensor([1], 0, 8)}, bytes(8)), "does not have the number of bytes that its type and shape need"),
        (raw({"a": tensor([1], 0, 4, "F8_E4M3")}, bytes(4)), "has type F8_E4M3; known types are"),
        (raw({"a": tensor([1], 4, 8)}, bytes(8)), "overlaps another tensor or leaves a gap"),
        (raw({"a": tensor([1], 0, 4), "b": tensor([1], 0, 4)}, bytes(4)), "overlaps another"),
        (raw({"a": tensor([1], 0, 4)}, bytes(9)), "describes 4 bytes of tensors; the file has 9"),
        (raw({"a": tensor([1], 0, 4)}, bytes(3)), "describes 4 bytes of tensors; the file has 3. It was cut off"),
        (padded({"a": tensor([1], 0, 4)}, bytes(3), 0x0280), "It was cut off"),
        (padded({"a": tensor([1], 0, 4)}, bytes(9), 0x4B50), "describes 4 bytes of tensors; the file has 9"),
        (raw({"__metadata__": {"a": 1}}), "metadata is not a map"),
    ],
)
def test_a_file_that_is_not_valid_safetensors_is_refused(file: io.BytesIO, message: str) -> None:
    with pytest.raises(NotSafetensors, match=message):
        artifacts.read_header(file)


def test_a_header_over_1_mib_is_refused_before_it_is_read() -> None:
    with pytest.raises(NotSafetensors, match="at most 1 MiB"):
        artifacts.read_header(raw(b" " * (1 << 20) + b"{}"))


def pruned_module(classes: list[int]) -> DepositModule:
    lower = prune(network().lower, 0.5, example_input(1, (8, 8)))
    return DepositModule(lower, classes, digest(network().upper)).eval()


def test_a_stored_module_keeps_its_widths_classes_and_answers() -> None:
    module, images = pruned_module([1, 3]), torch.randn(2, 1, 8, 8)
    loaded = artifacts.load_module(artifacts.dump_module(module, belonging(network())), belonging(network()))
    assert (loaded.classes, loaded.known) == ((1, 3), None)
    assert torch.equal(loaded(images), module(images))


def test_a_stored_module_keeps_what_it_knows_of_other_classes() -> None:
    lower, upper = pruned_module([1, 3]).lower, digest(network().upper)
    module = DepositModule(lower, [1, 3], upper, known=[0, 1, 3, 4])
    loaded = artifacts.load_module(artifacts.dump_module(module, belonging(network())), belonging(network()))
    assert loaded.known == (0, 1, 3, 4)


@pytest.mark.parametrize("bits", [8, 6, 4])
def test_a_module_on_a_grid_is_stored_in_its_bits_without_loss(bits: int) -> None:
    module = pruned_module([1, 3])
    attach(module.lower, bits)
    module.grid = settle(module.lower, bits)
    stored = artifacts.dump_module(module, belonging(network()))
    loaded = artifacts.load_module(stored, belonging(network()))
    assert digest(loaded.lower) == digest(module.lower)
    assert loaded.grid.bits == bits
    assert loaded.grid.scales.keys() == module.grid.scales.keys()
    codes = safetensors.torch.load(stored)["layer1.0.conv1.weight.codes"]
    assert len(codes) == module.lower.get_submodule("layer1.0.conv1").weight.numel() * bits // 8


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("layer1.0.conv1.weight.codes", lambda codes: codes[1:]),
        ("layer1.0.conv1.weight.codes", lambda codes: torch.full_like(codes, 255)),
        ("layer1.0.conv1.weight.codes", lambda codes: codes.float()),
        ("layer1.0.conv1.weight.scales", lambda scales: scales[1:]),
    ],
)
def test_codes_that_do_not_fit_the_grid_are_refused(
    name: str, change: Callable[[torch.Tensor], torch.Tensor], tmp_path: Path
) -> None:
    module = pruned_module([1, 3])
    attach(module.lower, 6)
    module.grid = settle(module.lower, 6)
    stored = artifacts.dump_module(module, belonging(network()))
    state = safetensors.torch.load(stored)
    state[name] = change(state[name]).contiguous()
    (tmp_path / "module").write_bytes(stored)
    with safetensors.safe_open(tmp_path / "module", "pt") as file:
        metadata = file.metadata()
    with pytest.raises(DoesNotFit, match=r"layer1\.0\.conv1\.weight"):
        artifacts.load_module(safetensors.torch.save(state, metadata), belonging(network()))


def test_both_stored_parts_of_a_network_are_loaded_unchanged() -> None:
    original, own = network(), belonging(network())
    loaded = artifacts.load_network(dump_upper(original, own), artifacts.dump_lower(original, own), own)
    images = torch.randn(2, 1, 8, 8)
    assert torch.equal(loaded(images), original(images))


def test_parts_of_another_network_are_refused() -> None:
    mine, other = network(), network(9)
    stored = artifacts.dump_module(pruned_module([0]), belonging(mine))
    with pytest.raises(ForeignUpperPart, match="This module belongs to the upper part"):
        artifacts.load_module(stored, belonging(other))
    with pytest.raises(ForeignUpperPart, match="This lower belongs to the upper part"):
        artifacts.load_network(
            dump_upper(other, belonging(other)), artifacts.dump_lower(mine, belonging(mine)), belonging(other)
        )
    lower = artifacts.dump_lower(mine, belonging(mine))
    with pytest.raises(DoesNotFit, match="has part 'lower'"):
        artifacts.load_network(lower, lower, belonging(mine))
