"""Images for the tests of the service."""

import io
import zipfile
from typing import Any

import numpy
from PIL import Image

CLASSES = ["auk", "dodo", "emu", "heron", "kiwi"]


def png(seed: int = 0, size: int = 8) -> bytes:
    return _encoded(numpy.random.default_rng(seed).integers(0, 256, (size, size), dtype=numpy.uint8))


def bird(label: str, seed: int) -> bytes:
    """A PNG that shows a class of `CLASSES`: its own row is bright, as in `images` of tests/lirf_core/factories.py."""
    row = CLASSES.index(label)
    pixels = numpy.random.default_rng(1000 * row + seed).integers(0, 150, (8, 8), dtype=numpy.uint8)
    pixels[row] += 100
    return _encoded(pixels)


def deposit_zip(classes: list[str], each: int = 4, first: int = 0, shown: str | None = None) -> bytes:
    """first: seed of each class's first image. shown: what every image shows, whatever its folder says."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, label in enumerate(classes):
            for index in range(each):
                image = png(number * 1000 + index) if label not in CLASSES else bird(shown or label, first + index)
                archive.writestr(f"{label}/{index}.png", image)
    return file.getvalue()


def _encoded(pixels: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def infer_request(count: int = 2, **parameters: object) -> dict[str, object]:
    data = numpy.random.default_rng(7).integers(0, 256, count * 64).tolist()
    tensor = {"name": "input", "shape": [count, 1, 8, 8], "datatype": "UINT8", "data": data}
    return {"inputs": [tensor], "parameters": parameters}
