"""Tensors on the wire: Open Inference Protocol v2 with JSON, and its binary tensor data extension.

A binary request is a JSON head, followed by the raw inputs; each input's `binary_data_size` says how long it is. A
response with raw outputs has the same form.
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
from app.inference.engine import Inputs
from app.inference.schemas import InferInput, InferOutput, InferRequest, InferResponse, OutputParameters
from lirf_core.images.decoding import Decoders, GivenUp, UnreadableImage
from lirf_core.images.preprocessing import Preprocessing

MAX_BATCH = 4096
MAX_SIDE = 8192
VALUES_AT_ONCE = 1 << 22  # that a thread resizes and normalises before it takes up other work
QUICK_VALUES = 1 << 18  # of a request that is prepared on the event loop, since a thread would take longer
MAX_JSON_NUMBERS, MAX_RAW_NUMBERS = 500_000, 16 << 20  # of an answer
_LENGTH = struct.Struct("<I")


class InvalidTensor(Problem):
    """Name, shape, type or values of the input do not fit. `GET /v2/models/{name}` says what fits."""

    status, slug, title = 422, "invalid-tensor", "The input tensor does not fit the model"


class AnswerTooLarge(Problem):
    """The outputs would have too many numbers. Send fewer images, name the outputs you need, or ask for them raw."""

    status, slug, title = 422, "answer-too-large", "The answer would be too large"


class BadFraming(Problem):
    """The JSON head and the raw bytes do not add up. Give each raw input its `binary_data_size`."""

    status, slug, title = 400, "bad-framing", "The JSON head and the raw tensors do not match"


def split_raw(inputs: Sequence[InferInput], raw: memoryview) -> list[memoryview | None]:
    """Each input's raw bytes; None if its data are in the JSON. Raises `BadFraming`."""
    pieces: list[memoryview | None] = []
    begin = 0
    for tensor in inputs:
        size = tensor.parameters.binary_data_size
        if (size is None) == (tensor.data is None):
            raise BadFraming(f"Input '{tensor.name}' needs `data` or `parameters.binary_data_size`, and not both.")
        if size is None:
            pieces.append(None)
            continue
        if size > len(raw) - begin:
            raise BadFraming(f"Input '{tensor.name}' needs {size} raw bytes, but only {len(raw) - begin} are left.")
        pieces.append(raw[begin : begin + size])
        begin += size
    if begin != len(raw):
        raise BadFraming(f"{len(raw) - begin} raw bytes belong to no input. Give each input its `binary_data_size`.")
    return pieces


def read(tensor: InferInput, raw: memoryview | None, preprocessing: Preprocessing, decoders: Decoders) -> Inputs:
    """The images of a request; not prepared yet. Raises `InvalidTensor`, and so does reading the images.

    FP32 is already normalised, (B, C, H, W). UINT8 holds images of any size, (B, C, H, W) or (B, H, W, C). BYTES holds
    B encoded images, in JSON as base64.
    """
    readers = {"FP32": _read_floats, "UINT8": _read_pixels}
    if not 1 <= tensor.shape[0] <= MAX_BATCH:
        raise InvalidTensor(f"The shape is {tensor.shape}. Send a batch of 1 to {MAX_BATCH}.")
    if tensor.datatype == "BYTES":
        return _read_images(tensor, raw, preprocessing, decoders)
    if tensor.datatype not in readers:
        raise InvalidTensor(
            f"The datatype is {tensor.datatype[:10]}. The model takes FP32 (normalised), UINT8 (pixels, 0 to 255) or "
            "BYTES (PNG or JPEG files)."
        )
    return readers[tensor.datatype](tensor, raw, preprocessing)


def _read_floats(tensor: InferInput, raw: memoryview | None, preprocessing: Preprocessing) -> Inputs:
    shape = [preprocessing.channels, preprocessing.height, preprocessing.width]
    if len(tensor.shape) != 4 or tensor.shape[1:] != shape:
        raise InvalidTensor(
            f"The shape is {tensor.shape}. The shape of FP32 must be [batch, {', '.join(map(str, shape))}]."
        )
    values = _numbers(tensor) if raw is None else _array(tensor, raw, "<f4")
    with numpy.errstate(over="ignore"):
        values = values.astype(numpy.float32)
    if not numpy.isfinite(values).all():
        raise InvalidTensor("FP32 data must be finite numbers.")
    return Inputs.of(torch.from_numpy(values))


def _read_pixels(tensor: InferInput, raw: memoryview | None, preprocessing: Preprocessing) -> Inputs:
    channels = preprocessing.channels
    channels_first = tensor.shape[1:2] == [channels]
    sides = tensor.shape[2:] if channels_first else tensor.shape[1:3]
    fits = len(tensor.shape) == 4 and (channels_first or tensor.shape[3] == channels)
    if not fits or not all(1 <= side <= MAX_SIDE for side in sides):
        raise InvalidTensor(
            f"The shape is {tensor.shape}. The shape of UINT8 must be [batch, {channels}, height, width] or "
            f"[batch, height, width, {channels}], with sides of 1 to {MAX_SIDE} pixels."
        )
    if raw is None:
        values = _numbers(tensor)
        if not ((values >= 0) & (values <= 255) & (values == numpy.floor(values))).all():
            raise InvalidTensor("UINT8 data must be whole numbers from 0 to 255.")
    else:
        values = _array(tensor, raw, "u1")
    pixels = torch.from_numpy(values.astype(numpy.uint8))
    if not channels_first:
        pixels = pixels.permute(0, 3, 1, 2)

    def prepare(start: int, stop: int) -> Tensor:
        return preprocessing.normalise(_resize(pixels[start:stop], preprocessing))

    values_of_image = max(math.prod(sides), preprocessing.height * preprocessing.width) * channels
    is_quick = len(pixels) * values_of_image <= QUICK_VALUES
    return Inputs(len(pixels), prepare, max(1, VALUES_AT_ONCE // values_of_image), is_quick)


def _resize(pixels: Tensor, preprocessing: Preprocessing) -> Tensor:
    """uint8 (B, C, H, W) in the network's size; bilinear, as for image files."""
    size = (preprocessing.height, preprocessing.width)
    if pixels.shape[2:] == size:
        return pixels
    return functional.interpolate(pixels, size, mode="bilinear", antialias=True)


def _read_images(
    tensor: InferInput, raw: memoryview | None, preprocessing: Preprocessing, decoders: Decoders
) -> Inputs:
    if math.prod(tensor.shape) != tensor.shape[0]:
        raise InvalidTensor(f"The shape is {tensor.shape}. The shape of BYTES must be [batch], one file per element.")
    files = _base64(tensor) if raw is None else _strings(raw)
    if len(files) != tensor.shape[0]:
        raise InvalidTensor(f"The request has {len(files)} files. Shape {tensor.shape} needs {tensor.shape[0]}.")

    given_up = GivenUp()

    def decode(start: int, stop: int) -> Tensor:
        images = []
        for number, file in enumerate(files[start:stop], start + 1):
            try:
                images.append(decoders.tensor(file, preprocessing, given_up))
            except UnreadableImage as error:
                raise InvalidTensor(f"File {number} of {len(files)} in BYTES cannot be used. {error}") from error
        return preprocessing.normalise(torch.cat(images))

    return Inputs(len(files), decode, at_once=1, given_up=given_up)


def _numbers(tensor: InferInput) -> numpy.ndarray[Any, Any]:
    try:
        values = numpy.asarray(tensor.data, dtype=numpy.float64)
    except (ValueError, TypeError, OverflowError) as error:
        raise InvalidTensor("`data` has an element that is not a number, or its nesting is uneven.") from error
    count = math.prod(tensor.shape)
    if values.size != count or (values.ndim > 1 and list(values.shape) != tensor.shape):
        raise InvalidTensor(f"`data` has {values.size} numbers. Shape {tensor.shape} needs {count}.")
    return values.reshape(tensor.shape)


def _array(tensor: InferInput, raw: memoryview, dtype: str) -> numpy.ndarray[Any, Any]:
    size = math.prod(tensor.shape) * numpy.dtype(dtype).itemsize
    if len(raw) != size:
        raise InvalidTensor(
            f"The input has {len(raw)} raw bytes. Shape {tensor.shape} of {tensor.datatype} needs {size}."
        )
    return numpy.frombuffer(raw, dtype).reshape(tensor.shape)


def _base64(tensor: InferInput) -> list[bytes]:
    try:
        return [base64.b64decode(text, validate=True) for text in tensor.data or []]
    except (binascii.Error, ValueError, TypeError) as error:
        raise InvalidTensor("BYTES in JSON must be files as base64. Or send the files raw, without base64.") from error


def _strings(raw: memoryview) -> list[bytes]:
    """The elements; each follows its length in four bytes, little-endian."""
    elements, begin = [], 0
    while begin < len(raw):
        if len(raw) - begin < _LENGTH.size:
            raise InvalidTensor("The raw BYTES end within the length of an element.")
        (length,) = _LENGTH.unpack_from(raw, begin)
        begin += _LENGTH.size
        if length > len(raw) - begin:
            raise InvalidTensor(f"An element of BYTES has {length} bytes, but only {len(raw) - begin} are left.")
        elements.append(bytes(raw[begin : begin + length]))
        begin += length
    return elements


@dataclass(frozen=True)
class OutputTensor:
    """values: float32, or strings in row-major order."""

    name: str
    shape: list[int]
    values: Tensor | list[str]

    @property
    def datatype(self) -> str:
        return "BYTES" if isinstance(self.values, list) else "FP32"

    def to_bytes(self) -> bytes:
        if isinstance(self.values, list):
            return b"".join(_LENGTH.pack(len(text)) + text for text in map(str.encode, self.values))
        return self.values.numpy().astype("<f4").tobytes()

    def to_list(self) -> list[Any]:
        return self.values if isinstance(self.values, list) else self.values.flatten().tolist()


def demand_size(request: InferRequest, names: Sequence[str], images: int, classes: int) -> None:
    """Raise `AnswerTooLarge` unless the outputs with these names are small enough. classes: of the model."""
    numbers = {True: 0, False: 0}
    requested = {output.name: output.parameters for output in request.outputs}
    for name in names:
        parameters = requested.get(name, OutputParameters())
        width = 1 if name == "class" else min(parameters.classification or classes, classes)
        numbers[_is_raw(request, parameters)] += images * width
    for is_raw, limit in ((True, MAX_RAW_NUMBERS), (False, MAX_JSON_NUMBERS)):
        if numbers[is_raw] > limit:
            kind, advice = ("raw", "") if is_raw else ("JSON", ", or ask for raw outputs (`binary_data`)")
            raise AnswerTooLarge(
                f"The answer would have {numbers[is_raw]:,} numbers as {kind}; the limit is {limit:,}. Send fewer "
                f"images, name fewer outputs{advice}."
            )


def _is_raw(request: InferRequest, parameters: OutputParameters) -> bool:
    return request.parameters.binary_data_output if parameters.binary_data is None else parameters.binary_data


def write(request: InferRequest, response: InferResponse, outputs: Sequence[OutputTensor]) -> list[bytes]:
    """The response's JSON head with the outputs, followed by the outputs that the request wants raw."""
    requested = {output.name: output.parameters for output in request.outputs}
    raw = []
    for tensor in outputs:
        output = InferOutput(name=tensor.name, shape=tensor.shape, datatype=tensor.datatype)
        if _is_raw(request, requested.get(tensor.name) or OutputParameters()):
            raw.append(tensor.to_bytes())
            output.parameters = {"binary_data_size": len(raw[-1])}
        else:
            output.data = tensor.to_list()
        response.outputs.append(output)
    return [response.model_dump_json(exclude_none=True).encode(), *raw]
