"""Tensors on the wire: Open Inference Protocol v2 with JSON, and its binary tensor data extension.

A binary request is a JSON head, then the raw inputs one after the other, each of its `binary_data_size`; an answer
with raw outputs is built alike.
(https://github.com/kserve/open-inference-protocol, and Triton's protocol/extension_binary_data.md.)
"""

import base64
import binascii
import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch
from torch import Tensor
from torch.nn import functional

from app.base.errors import Problem
from app.inference.schemas import InferInput, InferOutput, InferRequest, InferResponse
from lirf_core.images.decoding import Decoders, UnreadableImage
from lirf_core.images.preprocessing import Preprocessing

MAX_BATCH = 4096
MAX_SIDE = 8192
_LENGTH = struct.Struct("<I")


class InvalidTensor(Problem):
    status, slug, title = 422, "invalid-tensor", "The input tensor does not fit the model"


class BadFraming(Problem):
    status, slug, title = 400, "bad-framing", "The request's head and its raw tensors do not fit together"


def pieces(inputs: Sequence[InferInput], raw: memoryview) -> list[memoryview | None]:
    """Each input's part of the raw bytes; None where its data are in the JSON. Raises `BadFraming`."""
    found: list[memoryview | None] = []
    begin = 0
    for given in inputs:
        size = given.parameters.binary_data_size
        if (size is None) == (given.data is None):
            raise BadFraming(f"input '{given.name}' needs `data`, or `parameters.binary_data_size`, and not both.")
        if size is None:
            found.append(None)
            continue
        if size > len(raw) - begin:
            raise BadFraming(f"input '{given.name}' has {size} raw bytes, but only {len(raw) - begin} are left.")
        found.append(raw[begin : begin + size])
        begin += size
    if begin != len(raw):
        raise BadFraming(f"{len(raw) - begin} raw bytes belong to no input; give each its `binary_data_size`.")
    return found


def read(given: InferInput, raw: memoryview | None, size: Preprocessing, decoders: Decoders) -> Tensor:
    """float32 (B, C, H, W), normalised. Raises `InvalidTensor`.

    FP32 is taken as it is, (B, C, H, W); UINT8 are images (B, C, H, W) or (B, H, W, C) of any size; BYTES are B encoded
    images, in JSON as base64.
    """
    read_as = {"FP32": _read_floats, "UINT8": _read_pixels}
    if not 1 <= given.shape[0] <= MAX_BATCH:
        raise InvalidTensor(f"shape is {given.shape}; the model takes a batch of 1 to {MAX_BATCH}.")
    if given.datatype == "BYTES":
        return _read_images(given, raw, size, decoders)
    if given.datatype not in read_as:
        raise InvalidTensor(
            f"datatype is {given.datatype[:10]}; the model takes FP32 (normalised), UINT8 (pixels, 0 to 255) or BYTES "
            "(PNG or JPEG files)."
        )
    return read_as[given.datatype](given, raw, size)


def _read_floats(given: InferInput, raw: memoryview | None, size: Preprocessing) -> Tensor:
    wanted = [size.channels, size.height, size.width]
    if len(given.shape) != 4 or given.shape[1:] != wanted:
        raise InvalidTensor(f"shape is {given.shape}; FP32 is taken as [batch, {', '.join(map(str, wanted))}].")
    values = _numbers(given) if raw is None else _array(given, raw, "<f4")
    with numpy.errstate(over="ignore"):
        values = values.astype(numpy.float32)
    if not numpy.isfinite(values).all():
        raise InvalidTensor("FP32 data are finite numbers.")
    return torch.from_numpy(values)


def _read_pixels(given: InferInput, raw: memoryview | None, size: Preprocessing) -> Tensor:
    channels_first = given.shape[1:2] == [size.channels]
    sides = given.shape[2:] if channels_first else given.shape[1:3]
    fits = len(given.shape) == 4 and (channels_first or given.shape[3] == size.channels)
    if not fits or not all(1 <= side <= MAX_SIDE for side in sides):
        raise InvalidTensor(
            f"shape is {given.shape}; UINT8 is taken as [batch, {size.channels}, height, width] or "
            f"[batch, height, width, {size.channels}], with sides up to {MAX_SIDE}."
        )
    if raw is None:
        values = _numbers(given)
        if not ((values >= 0) & (values <= 255) & (values == numpy.floor(values))).all():
            raise InvalidTensor("UINT8 data are whole numbers from 0 to 255.")
    else:
        values = _array(given, raw, "u1")
    pixels = torch.from_numpy(values.astype(numpy.uint8))
    return size.normalise(_resized(pixels if channels_first else pixels.permute(0, 3, 1, 2), size))


def _resized(pixels: Tensor, size: Preprocessing) -> Tensor:
    """uint8 (B, C, H, W) in the network's size, bilinear as for files."""
    wanted = (size.height, size.width)
    if pixels.shape[2:] == wanted:
        return pixels
    return functional.interpolate(pixels, wanted, mode="bilinear", antialias=True)


def _read_images(given: InferInput, raw: memoryview | None, size: Preprocessing, decoders: Decoders) -> Tensor:
    if math.prod(given.shape) != given.shape[0]:
        raise InvalidTensor(f"shape is {given.shape}; BYTES are taken as [batch], one file each.")
    files = _base64(given) if raw is None else _strings(raw)
    if len(files) != given.shape[0]:
        raise InvalidTensor(f"there are {len(files)} files; shape {given.shape} needs {given.shape[0]}.")
    try:
        return size.normalise(torch.cat([decoders.tensor(file, size) for file in files]))
    except UnreadableImage as error:
        raise InvalidTensor(f"{error} BYTES are PNG or JPEG files.") from error


def _numbers(given: InferInput) -> numpy.ndarray[Any, Any]:
    try:
        values = numpy.asarray(given.data, dtype=numpy.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidTensor("data holds something that is not a number, or its nesting is uneven.") from error
    needed = math.prod(given.shape)
    if values.size != needed or (values.ndim > 1 and list(values.shape) != given.shape):
        raise InvalidTensor(f"data has {values.size} numbers; shape {given.shape} needs {needed}.")
    return values.reshape(given.shape)


def _array(given: InferInput, raw: memoryview, kind: str) -> numpy.ndarray[Any, Any]:
    needed = math.prod(given.shape) * numpy.dtype(kind).itemsize
    if len(raw) != needed:
        raise InvalidTensor(f"there are {len(raw)} raw bytes; shape {given.shape} of {given.datatype} needs {needed}.")
    return numpy.frombuffer(raw, kind).reshape(given.shape)


def _base64(given: InferInput) -> list[bytes]:
    try:
        return [base64.b64decode(text, validate=True) for text in given.data or []]
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidTensor("BYTES in JSON are files as base64; send them raw to spare that.") from error


def _strings(raw: memoryview) -> list[bytes]:
    """Each after its length, four bytes, little-endian."""
    found, begin = [], 0
    while begin < len(raw):
        if len(raw) - begin < _LENGTH.size:
            raise InvalidTensor("BYTES end within the length of an element.")
        (length,) = _LENGTH.unpack_from(raw, begin)
        begin += _LENGTH.size
        if length > len(raw) - begin:
            raise InvalidTensor(f"an element of BYTES has {length} bytes, but only {len(raw) - begin} are left.")
        found.append(bytes(raw[begin : begin + length]))
        begin += length
    return found


@dataclass(frozen=True)
class OutputTensor:
    """values: float32, or text row by row."""

    name: str
    shape: list[int]
    values: Tensor | list[str]

    @property
    def datatype(self) -> str:
        return "BYTES" if isinstance(self.values, list) else "FP32"

    def packed(self) -> bytes:
        if isinstance(self.values, list):
            return b"".join(_LENGTH.pack(len(text)) + text for text in map(str.encode, self.values))
        return self.values.numpy().astype("<f4").tobytes()

    def listed(self) -> list[Any]:
        return self.values if isinstance(self.values, list) else self.values.flatten().tolist()


def answered(request: InferRequest, head: InferResponse, outputs: Sequence[OutputTensor]) -> list[bytes]:
    """The answer as the request wants each output: its JSON head, then what is raw."""
    wishes = {output.name: output.parameters.binary_data for output in request.outputs}
    raw = []
    for output in outputs:
        wish = wishes.get(output.name)
        told = InferOutput(name=output.name, shape=output.shape, datatype=output.datatype)
        if request.parameters.binary_data_output if wish is None else wish:
            raw.append(output.packed())
            told.parameters = {"binary_data_size": len(raw[-1])}
        else:
            told.data = output.listed()
        head.outputs.append(told)
    return [head.model_dump_json(exclude_none=True).encode(), *raw]
