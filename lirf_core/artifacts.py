"""Networks, their parts and deposit modules as safetensors files, and the checks that an uploaded file must pass.

Format `lirf/1`: a safetensors file whose metadata has `format`, `part` (`trunk`, `rows`, `lower`, `module` or
`hardened`), `architecture` (JSON of `ArchitectureSpec`), `split` and `upper_digest`. A module's also has `widths` and
`classes` (JSON), `joining`, `weight`, `bits` and `known` (JSON). Tensors have torchvision's parameter names. A module's
tensor is float16 if that loses nothing; a weight on a grid (`quantisation`) is stored as `NAME.codes` and
`NAME.scales`.

The upper part is stored as its trunk, all but the last layer, and the last layer's rows (`class_rows`); those of
deposited classes are in their modules instead. Earlier versions stored all of it as one part, `upper`. A hardened
network has an upper part of its own, so it is one part: all but the last layer, and the rows of preserved classes.
"""

import copy
import json
import math
from dataclasses import dataclass
from typing import Any, BinaryIO, cast, get_args

import safetensors
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from lirf_core import class_rows as rows
from lirf_core import pruning, quantisation
from lirf_core.architectures import ArchitectureSpec, empty, outline
from lirf_core.belonging import Belonging
from lirf_core.class_rows import Rows
from lirf_core.config import Joining
from lirf_core.network import SplitNetwork, digest, flat_state, freeze
from lirf_core.quantisation import Grid, NotOnGrid
from lirf_core.recover import DepositModule, ForeignUpperPart

MAX_HEADER_BYTES = 1 << 20
_START_BYTES = 512
_HOW_TO_SAVE = "Save the state dict with safetensors.torch.save_file."
_SIGNATURES = {
    b"\x89HDF\r\n\x1a\n": "This is an HDF5 file, as Keras writes.",
    b"\x93NUMPY": "This is a NumPy array (npy).",
    b"GGUF": "This is a GGUF file.",
    b"\x1f\x8b": "This is a gzip file.",
    b"version https://git-lfs": "This is a Git LFS pointer, not the file itself. Fetch the file with `git lfs pull`.",
    b"<!DOCTYPE html": "This is a web page, not the file that it offers.",
    b"<html": "This is a web page, not the file that it offers.",
    b"{": "This is JSON, perhaps an index of several safetensors files.",
}
ROW_DIGESTS, ROW_CLASSES = "row_digests", "row_classes"  # tensors of a trunk, and of rows
_ITEM_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8}

Shapes = dict[str, tuple[int, ...]]


class NotSafetensors(ValueError):
    """The bytes are not a safetensors file, or its header is wrong."""


class _NoHeader(NotSafetensors):
    """The file does not begin with the header of a safetensors file. It may be another format."""


class DoesNotFit(ValueError):
    """The tensors do not fit the architecture. The message names the first one that differs."""


@dataclass(frozen=True)
class Header:
    """What a safetensors file says about itself. total_bytes: the file's size."""

    shapes: Shapes
    metadata: dict[str, str]
    total_bytes: int


def read_header(file: BinaryIO) -> Header:
    """Read and check only the header, in at most 1 MiB of memory, and leave the file at its start.

    Types must be known, sizes must follow from type and shape, and data must cover the file without gap or overlap.
    Raises `NotSafetensors`.
    """
    file_bytes = file.seek(0, 2)
    file.seek(0)
    try:
        return _parse_header(file, file_bytes)
    except _NoHeader as error:
        # The first eight bytes are a length, and some lengths begin like a pickle or a zip. So look only now.
        file.seek(0)
        if message := _name_format(file.read(_START_BYTES)):
            raise NotSafetensors(f"{message} {_HOW_TO_SAVE}") from error
        raise
    finally:
        file.seek(0)


def _parse_header(file: BinaryIO, file_bytes: int) -> Header:
    start = file.read(8)
    header_bytes = int.from_bytes(start, "little")
    if len(start) < 8 or not 2 <= header_bytes <= min(MAX_HEADER_BYTES, file_bytes - 8):
        raise _NoHeader(f"The header length does not fit a safetensors file of {file_bytes} bytes (at most 1 MiB).")
    try:
        entries = json.loads(file.read(header_bytes), object_pairs_hook=_without_duplicates)
        metadata = entries.pop("__metadata__", {})
        spans = sorted(_span(name, entry) for name, entry in entries.items())
    except NotSafetensors:
        raise
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise _NoHeader("The header is not the JSON of a safetensors file.") from error
    position = 0
    for begin, end, name in spans:
        if begin != position:
            raise NotSafetensors(f"The data of tensor '{name}' overlaps another tensor or leaves a gap.")
        position = end
    data_bytes = file_bytes - 8 - header_bytes
    if data_bytes < position:
        raise NotSafetensors(
            f"The header describes {position} bytes of tensors; the file has {data_bytes}. It was cut off."
        )
    if data_bytes > position:
        raise NotSafetensors(f"The header describes {position} bytes of tensors; the file has {data_bytes}.")
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise NotSafetensors("The metadata is not a map from text to text.")
    return Header({name: tuple(entry["shape"]) for name, entry in entries.items()}, metadata, file_bytes)


def _name_format(start: bytes) -> str | None:
    """What a file with these first bytes is, if it is another format that weights or downloads often have."""
    if start.startswith(b"PK\x03\x04"):
        first_name = start[30 : 30 + int.from_bytes(start[26:28], "little")]
        if first_name.endswith(b".npy"):
            return "This is a NumPy archive (npz)."
        if first_name.endswith((b"metadata.json", b"config.json")):
            return "This is a Keras file."
        return "This is a zip or torch.save file."
    for signature, message in _SIGNATURES.items():
        if start.startswith(signature):
            return message
    if start[:1] == b"\x80" and start[1:2] in b"\2\3\4\5":
        return "This is a pickle, which is never loaded."
    return "This is a tar archive." if start[257:262] == b"ustar" else None


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    entries = dict(pairs)
    if len(entries) != len(pairs):
        raise NotSafetensors("The header names a tensor twice.")
    return entries


def _span(name: str, entry: dict[str, Any]) -> tuple[int, int, str]:
    begin, end = entry["data_offsets"]
    shape, kind = entry["shape"], entry["dtype"]
    if not isinstance(shape, list):
        raise NotSafetensors(f"The shape of tensor '{name[:100]}' is not a list.")
    if len(shape) > 8:
        raise NotSafetensors(f"Tensor '{name[:100]}' has {len(shape)} dimensions; at most 8 are allowed.")
    if not all(type(size) is int and 0 <= size < 1 << 48 for size in (begin, end, *shape)):
        raise NotSafetensors(f"Tensor '{name[:100]}' has a size that is not a whole number of at least 0.")
    if kind not in _ITEM_BYTES:
        raise NotSafetensors(
            f"Tensor '{name[:100]}' has type {str(kind)[:20]}; known types are {', '.join(_ITEM_BYTES)}."
        )
    if end - begin != math.prod(shape) * _ITEM_BYTES[kind]:
        raise NotSafetensors(f"Tensor '{name[:100]}' does not have the number of bytes that its type and shape need.")
    return begin, end, name


def expected_shapes(part: nn.Module) -> Shapes:
    """The shapes of a module's tensors, in the module's order."""
    state = flat_state(part) if isinstance(part, SplitNetwork) else part.state_dict()
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def check_fits(shapes: Shapes, expected: Shapes) -> None:
    """Check that names and shapes are the expected ones; `num_batches_tracked` may be missing. Raises `DoesNotFit`."""
    for name, shape in expected.items():
        if name not in shapes:
            if not name.endswith("num_batches_tracked"):
                raise DoesNotFit(f"Tensor '{name}' of shape {list(shape)} is missing.")
        elif shapes[name] != shape:
            raise DoesNotFit(f"Tensor '{name}' has shape {list(shapes[name])}; the architecture needs {list(shape)}.")
    for name in shapes:
        if name not in expected:
            raise DoesNotFit(f"Tensor '{name[:200]}' is not one of the architecture's tensors.")


def max_file_bytes(spec: ArchitectureSpec) -> int:
    """An upper bound for the bytes of a weights file: all numbers as float64, and the largest header."""
    shapes = expected_shapes(outline(spec))
    return 8 + MAX_HEADER_BYTES + sum(8 * math.prod(shape) for shape in shapes.values())


def load_original(file: BinaryIO, spec: ArchitectureSpec, split: str) -> SplitNetwork:
    """A network from a plain safetensors state dict (F64, F32, F16 or BF16), as float32 and frozen.

    Raises `NotSafetensors` or `DoesNotFit` before it reads any tensor, and `DoesNotFit` if a value is not finite.
    """
    header = read_header(file)
    check_fits(header.shapes, expected_shapes(outline(spec, split)))
    network = empty(spec, split)
    state = flat_state(network)
    try:
        tensors = _load(file.read())
    except SafetensorError as error:
        raise NotSafetensors("safetensors cannot read the header.") from error
    for name, tensor in tensors.items():
        state[name].copy_(tensor)
        if not torch.isfinite(state[name]).all():
            raise DoesNotFit(f"Tensor '{name}' has values that are not finite in float32.")
        if name.endswith("running_var") and (state[name] < 0).any():
            raise DoesNotFit(f"Tensor '{name}' has negative values, but a variance cannot be negative.")
    freeze(network)
    return network


def dump_trunk(network: SplitNetwork, belonging: Belonging) -> bytes:
    """safetensors bytes of format `lirf/1`, part `trunk`, with the digest of each row.

    An absent row's digest is that of what overwrote it, so no row can take its place.
    """
    state, layer = network.upper.state_dict(), rows.last_layer_name(network.upper)
    digests = rows.all_digests(network)
    trunk = {name: tensor for name, tensor in state.items() if not name.startswith(f"{layer}.")}
    return _dump({**trunk, ROW_DIGESTS: digests}, belonging.metadata("trunk"))


def dump_rows(kept: Rows, belonging: Belonging) -> bytes:
    """safetensors bytes of format `lirf/1`, part `rows`."""
    state = _row_tensors(kept, belonging) | {ROW_CLASSES: torch.tensor(kept.classes, dtype=torch.int64)}
    return _dump(state, belonging.metadata("rows"))


def dump_lower(network: SplitNetwork, belonging: Belonging) -> bytes:
    """safetensors bytes of format `lirf/1`, part `lower`."""
    return _dump(network.lower.state_dict(), belonging.metadata("lower"))


def dump_module(module: DepositModule, belonging: Belonging) -> bytes:
    """safetensors bytes of format `lirf/1`, part `module`, with its widths, its classes and their rows, if it has them.

    Nothing is lost: weights on a grid are stored as codes, and a tensor as float16 only if all its numbers are.
    """
    extra = {
        "widths": json.dumps(pruning.widths(module.lower)),
        "classes": json.dumps(module.classes),
        "joining": module.joining,
        "weight": repr(module.weight),
        "bits": str(module.grid.bits),
    }
    if module.known is not None:
        extra["known"] = json.dumps(module.known)
    state = _shortened(module.lower.state_dict())
    for name, scale in module.grid.scales.items():
        weight = state.pop(name).float()
        state |= {f"{name}.codes": quantisation.pack(weight, scale, module.grid.bits), f"{name}.scales": scale}
    if own := module.rows:
        state |= _row_tensors(own, belonging)
    return _dump(state, belonging.metadata("module") | extra)


def _shortened(state: dict[str, Tensor]) -> dict[str, Tensor]:
    halves = {name: tensor.half() for name, tensor in state.items() if tensor.is_floating_point()}
    return state | {name: half for name, half in halves.items() if torch.equal(half.to(state[name].dtype), state[name])}


def load_network(upper: bytes, lower: bytes, belonging: Belonging, kept: bytes | None = None) -> SplitNetwork:
    """The stored parts of one revision, joined and frozen. Raises `DoesNotFit` or `ForeignUpperPart`.

    kept: the part `rows`; then `upper` is a trunk, and rows that are in neither are absent. None: `upper` is the whole
    upper part, as earlier versions stored it.
    """
    network = empty(belonging.spec, belonging.split)
    if kept is None:
        _fill(network.upper, _read(upper, belonging.metadata("upper")))
    else:
        _fill_upper(network, _read(upper, belonging.metadata("trunk")), load_rows(kept, belonging))
    _fill(network.lower, _read(lower, belonging.metadata("lower")))
    if not network.absent and (upper_digest := digest(network.upper)) != belonging.upper_digest:
        raise ForeignUpperPart(f"The upper part is {upper_digest[:12]}, not {belonging.upper_digest[:12]}.")
    freeze(network)
    return network


def _fill_upper(network: SplitNetwork, trunk: dict[str, Tensor], kept: Rows) -> None:
    digests = trunk.pop(ROW_DIGESTS)
    if not torch.equal(kept.digests(), digests[list(kept.classes)]):
        raise ForeignUpperPart("A stored row of the last layer is not the one that the model was registered with.")
    headless, last = rows.split_last(network.upper)
    _fill(headless, trunk)
    rows.remove(network, range(last.out_features))
    rows.put_back(network, [kept])


def load_rows(stored: bytes, belonging: Belonging) -> Rows:
    """The part `rows`. Raises `DoesNotFit` or `ForeignUpperPart`."""
    state = _read(stored, belonging.metadata("rows"))
    own = _take_rows(state, state.pop(ROW_CLASSES).tolist(), belonging)
    if own is None or state:
        raise DoesNotFit("The stored rows are not those of a last layer.")
    return own


def _row_tensors(own: Rows, belonging: Belonging) -> dict[str, Tensor]:
    layer = rows.last_layer_name(outline(belonging.spec, belonging.split).upper)
    return {f"{layer}.weight": own.weight, f"{layer}.bias": own.bias}


def _take_rows(state: dict[str, Tensor], classes: list[int], belonging: Belonging) -> Rows | None:
    """Take the rows out of the state, in place. None if it has none. Raises `DoesNotFit`."""
    upper = outline(belonging.spec, belonging.split).upper
    layer, (_, last) = rows.last_layer_name(upper), rows.split_last(upper)
    weight, bias = state.pop(f"{layer}.weight", None), state.pop(f"{layer}.bias", None)
    if weight is None or bias is None:
        return None
    if weight.shape != (len(classes), last.in_features) or bias.shape != (len(classes),):
        raise DoesNotFit(f"The stored rows have shape {list(weight.shape)}, for {len(classes)} classes.")
    return Rows(tuple(classes), weight, bias)


def dump_hardened(network: SplitNetwork, belonging: Belonging) -> bytes:
    """safetensors bytes of format `lirf/1`, part `hardened`. Absent rows are not in them."""
    kept, layer = rows.take(network, rows.present(network)), rows.last_layer_name(network.upper)
    state = {name: tensor for name, tensor in flat_state(network).items() if not name.startswith(f"{layer}.")}
    state |= _row_tensors(kept, belonging) | {ROW_CLASSES: torch.tensor(kept.classes, dtype=torch.int64)}
    return _dump(state, belonging.metadata("hardened"))


def load_hardened(stored: bytes, belonging: Belonging) -> SplitNetwork:
    """A hardened network, frozen; other rows than those that it has are absent. Raises `DoesNotFit`.

    belonging: of the target that it was made from. Raises `ForeignUpperPart` if that has another upper part.
    """
    state = _read(stored, belonging.metadata("hardened"))
    kept = _take_rows(state, state.pop(ROW_CLASSES).tolist(), belonging)
    if kept is None:
        raise DoesNotFit("The stored hardened network has no rows of a last layer.")
    network = empty(belonging.spec, belonging.split)
    headless, last = rows.split_last(network.upper)
    _fill(network.lower, {name: state.pop(name) for name in network.lower.state_dict() if name in state})
    _fill(headless, state)
    rows.remove(network, range(last.out_features))
    rows.put_back(network, [kept])
    freeze(network)
    return network


def load_module(stored: bytes, belonging: Belonging) -> DepositModule:
    """A deposit module, rebuilt with its pruned widths and frozen. Raises `DoesNotFit` or `ForeignUpperPart`."""
    metadata = metadata_of(stored)
    with torch.device("meta"):
        lower = copy.deepcopy(outline(belonging.spec, belonging.split).lower)
        lower = pruning.rebuild(lower, json.loads(metadata["widths"]))
    lower.to_empty(device="cpu")
    grid = Grid(int(metadata.get("bits", "16")))
    classes = json.loads(metadata["classes"])
    state = _read(stored, belonging.metadata("module"))
    own = _take_rows(state, classes, belonging)
    _unpack(state, expected_shapes(lower), grid)
    _fill(lower, state)
    joining = metadata.get("joining", "eq8")  # the only joining of the first release
    if joining not in get_args(Joining):
        raise DoesNotFit(f"The stored module has the joining '{joining[:50]}', which this version does not know.")
    weight = float(metadata.get("weight", "1"))
    known = json.loads(metadata["known"]) if "known" in metadata else None
    joined = cast(Joining, joining)
    module = DepositModule(lower, classes, metadata["upper_digest"], joined, weight, grid, own, known)
    freeze(module)
    return module


def module_rows(stored: bytes, belonging: Belonging) -> Rows | None:
    """The rows of a stored deposit module; None if an earlier version stored it. Raises what `load_module` does."""
    return _take_rows(
        _read(stored, belonging.metadata("module")), json.loads(metadata_of(stored)["classes"]), belonging
    )


def _dump(state: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
    return safetensors.torch.save(tensors, metadata)


def _load(stored: bytes) -> dict[str, Tensor]:
    return safetensors.torch.load(stored)


def metadata_of(stored: bytes) -> dict[str, str]:
    """The metadata of safetensors bytes that this service wrote."""
    header_bytes = int.from_bytes(stored[:8], "little")
    metadata: dict[str, str] = json.loads(stored[8 : 8 + header_bytes])["__metadata__"]
    return metadata


def _read(stored: bytes, expected: dict[str, str]) -> dict[str, Tensor]:
    """The tensors of a stored part with this metadata. Raises `DoesNotFit` or `ForeignUpperPart`."""
    metadata = metadata_of(stored)
    if metadata["upper_digest"] != expected["upper_digest"]:
        raise ForeignUpperPart(
            f"This {expected['part']} belongs to the upper part {metadata['upper_digest'][:12]}, "
            f"not to {expected['upper_digest'][:12]}."
        )
    for name, value in expected.items():
        if metadata.get(name) != value:
            raise DoesNotFit(f"The stored part has {name} {metadata.get(name)!r} instead of {value!r}.")
    return _load(stored)


def _fill(part: nn.Module, state: dict[str, Tensor]) -> None:
    check_fits({name: tuple(tensor.shape) for name, tensor in state.items()}, expected_shapes(part))
    part.load_state_dict(state)


def _unpack(state: dict[str, Tensor], shapes: Shapes, grid: Grid) -> None:
    """Replace, in place, codes and scales by weights, and add the scales to the grid. Raises `DoesNotFit`."""
    for codes_name in [name for name in state if name.endswith(".codes")]:
        name = codes_name.removesuffix(".codes")
        codes, scale = state.pop(codes_name), state.pop(f"{name}.scales", torch.empty(0))
        if name not in shapes or grid.bits not in quantisation.BITS:
            raise DoesNotFit(
                f"The stored module has codes of '{name[:200]}' in {grid.bits} bits, which cannot be read."
            )
        try:
            state[name] = quantisation.unpack(codes, scale, shapes[name], grid.bits)
        except NotOnGrid as error:
            raise DoesNotFit(f"Tensor '{name}': {error}") from error
        grid.scales[name] = scale
