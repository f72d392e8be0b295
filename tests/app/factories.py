"""Images for the tests of the service."""

import io
import zipfile

import numpy
from PIL import Image

CLASSES = ["auk", "dodo", "emu", "heron", "kiwi"]


def png(seed: int = 0, size: int = 8) -> bytes:
    file = io.BytesIO()
    pixels = numpy.random.default_rng(seed).integers(0, 256, (size, size), dtype=numpy.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def deposit_zip(classes: list[str], each: int = 4) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for number, label in enumerate(classes):
            for index in range(each):
                archive.writestr(f"{label}/{index}.png", png(number * 1000 + index))
    return file.getvalue()


def infer_request(count: int = 2, **parameters: object) -> dict[str, object]:
    data = numpy.random.default_rng(7).integers(0, 256, count * 64).tolist()
    tensor = {"name": "input", "shape": [count, 1, 8, 8], "datatype": "UINT8", "data": data}
    return {"inputs": [tensor], "parameters": parameters}
