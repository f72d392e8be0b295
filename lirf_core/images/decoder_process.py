"""A program that decodes untrusted images. `decoding.Decoders` starts it; it can only read and write one socket.

It imports only Pillow and the standard library, opens no file, and the kernel kills it if it exceeds its limits.
Request: HEADER, then the file. Answer: one byte, DECODED or REFUSED. After DECODED come the pixels, channel by channel;
after REFUSED a REFUSAL: the reason, and two numbers for the message.

Pillow sees only the parts of a file that make the pixels. Metadata (EXIF, XMP, colour profiles, text, thumbnails,
further pictures) are cut out first, so that none can refuse a good picture, unpack to a gigabyte, or make Pillow import
a module when it may no longer open files.
"""

import io
import resource
import signal
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum

from PIL import Image

# Bytes of the file, channels, height, width, whether to follow the EXIF orientation, maximum of pixels, CPU seconds.
HEADER = struct.Struct(">QIIIBQd")
REFUSAL = struct.Struct(">BQQ")
READY, DECODED, REFUSED = b"\2", b"\1", b"\0"
MEMORY_BYTES = 448 << 20
_OWN_BYTES = 40 << 20  # of address space, before an image is read

_MAX_PARTS = 200_000  # of a file: chunks, or segments and fill bytes before the first scan

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
_JPEG_END = b"\xff\xd9"
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
# Memory for a pixel while it is decoded, converted and resized, by Pillow's mode.
_PIXEL_BYTES = {"1": 5, "L": 1, "P": 5, "I;16": 5, "LA": 5, "RGB": 5, "RGBA": 5, "CMYK": 8}
_TRANSPOSITIONS = {  # of EXIF orientations, JEITA CP-3451 4.6.4 A
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class Reason(IntEnum):
    """Why an image is refused, and what the two numbers of a `REFUSAL` are."""

    FORMAT = 1
    DAMAGED = 2
    CUT = 3
    PIXELS = 4  # width, height
    MEMORY = 5  # pixels, bytes needed
    JPEG_BITS = 6  # bits for each value
    JPEG_CHANNELS = 7  # channels
    JPEG_PROCESS = 8  # number of the SOF marker


class Refusal(Exception):
    def __init__(self, reason: Reason, first: int = 0, second: int = 0) -> None:
        super().__init__(reason, first, second)
        self.answer = REFUSAL.pack(reason, first, second)


@dataclass(frozen=True)
class Picture:
    """content: the file with only what makes the pixels. coefficient_bytes: what a progressive JPEG needs besides."""

    content: bytes
    width: int
    height: int
    orientation: int = 1
    coefficient_bytes: int = 0


def decode(content: bytes, channels: int, height: int, width: int, follows_exif: bool, max_pixels: int) -> bytes:
    """uint8 pixels (C, H, W) of a PNG or JPEG. Values of 16 bits keep their upper 8; transparency is dropped.

    Raises `Refusal`, and what Pillow raises.
    """
    picture = _read(content)
    del content
    if picture.width * picture.height > max_pixels:
        raise Refusal(Reason.PIXELS, picture.width, picture.height)
    if not follows_exif:
        picture = replace(picture, orientation=1)
    try:
        return _decode(picture, channels, height, width)
    except OSError as error:
        if "truncated" not in str(error) or not picture.content.startswith(JPEG):
            raise
    # Some cameras leave out the end. Nothing is missing if it makes no difference what would come.
    pictures = (replace(picture, content=picture.content + extra + _JPEG_END) for extra in (b"", b"\x5a" * 1024))
    first, second = (_decode(one, channels, height, width) for one in pictures)
    if first != second:
        raise Refusal(Reason.CUT)
    return first


def _decode(picture: Picture, channels: int, height: int, width: int) -> bytes:
    transposition = _TRANSPOSITIONS.get(picture.orientation)
    size = (height, width) if picture.orientation >= 5 else (width, height)
    with Image.open(io.BytesIO(picture.content), formats=["PNG", "JPEG"]) as image:
        if image.size != (picture.width, picture.height):  # a second header
            raise Refusal(Reason.DAMAGED)
        image.draft(None, size)  # decodes a large JPEG at the next larger size
        pixels = image.width * image.height
        needed = pixels * _PIXEL_BYTES[image.mode] + picture.coefficient_bytes
        if image.mode == "RGB" and channels == 3:
            needed -= pixels
        if needed > MEMORY_BYTES - _OWN_BYTES - 2 * len(picture.content):
            raise Refusal(Reason.MEMORY, picture.width * picture.height, needed + 2 * len(picture.content))
        bands = list(_bands(image, channels, size))
    if transposition is not None:
        bands = [band.transpose(transposition) for band in bands]
    return b"".join(band.tobytes() for band in bands)


def _bands(image: Image.Image, channels: int, size: tuple[int, int]) -> Iterator[Image.Image]:
    """The channels in this size, with as little memory as possible."""
    if image.mode == "I;16":
        image = Image.frombytes("L", image.size, image.tobytes()[1::2])
    if channels == 1:
        yield _resized(image if image.mode == "L" else image.convert("L"), size)
    elif image.mode in ("1", "L", "LA"):
        yield from [_resized(image if image.mode == "L" else image.convert("L"), size)] * 3
    elif image.mode == "RGBA":
        for name in "RGB":
            yield _resized(image.getchannel(name), size)
    else:
        yield from _resized(image if image.mode == "RGB" else image.convert("RGB"), size).split()


def _resized(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    image.load()
    return image if image.size == size else image.resize(size, Image.Resampling.BILINEAR)


def _read(content: bytes) -> Picture:
    if content.startswith(PNG):
        return _read_png(content)
    if content.startswith(JPEG):
        return _read_jpeg(content)
    raise Refusal(Reason.FORMAT)


def _read_png(content: bytes) -> Picture:
    """Keep the chunks IHDR, PLTE and IDAT (PNG, third edition, 5.6)."""
    view, position, orientation = memoryview(content), len(PNG), 1
    pieces: list[bytes | memoryview] = [PNG]
    for _ in range(_MAX_PARTS):
        if position + 8 > len(content):
            break
        size, kind = struct.unpack_from(">I4s", content, position)
        end = position + 12 + size
        if kind == b"IEND":
            break
        if kind in (b"IHDR", b"PLTE", b"IDAT"):
            if end > len(content):
                raise Refusal(Reason.CUT)
            pieces.append(view[position:end])
        elif kind == b"eXIf":
            orientation = _orientation(content[position + 8 : end - 4])
        position = end
    else:
        raise Refusal(Reason.DAMAGED)
    if len(content) < 33:
        raise Refusal(Reason.CUT)
    width, height = struct.unpack_from(">II", content, 16)
    if content[12:16] != b"IHDR" or width == 0 or height == 0:
        raise Refusal(Reason.DAMAGED)
    return Picture(b"".join([*pieces, _PNG_END]), width, height, orientation)


def _read_jpeg(content: bytes) -> Picture:
    """Keep the segments up to the first scan that are no metadata, and all that follows (ITU-T T.81, B.1)."""
    view, position = memoryview(content), 2
    pieces: list[bytes | memoryview] = [content[:2]]
    orientation, frame = 1, b""
    for _ in range(_MAX_PARTS):
        position = content.find(b"\xff", position)
        if position < 0 or position + 4 > len(content):
            raise Refusal(Reason.CUT)
        marker = content[position + 1]
        if marker in (0x00, 0x01, 0xFF) or 0xD0 <= marker <= 0xD8:  # no segment, or fill bytes
            position += 1 if marker == 0xFF else 2
            continue
        if marker == 0xD9:
            raise Refusal(Reason.DAMAGED)
        end = position + 2 + int.from_bytes(content[position + 2 : position + 4], "big")
        if marker == 0xDA:
            break
        if end > len(content):
            raise Refusal(Reason.CUT)
        segment = content[position + 4 : end]
        if (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)) or marker == 0xF7:
            frame = bytes([marker]) + segment
        if marker == 0xE1 and segment.startswith(b"Exif\0") and orientation == 1:
            orientation = _orientation(segment)
        # JFIF and Adobe's segment say how colours are stored.
        is_colour = (marker == 0xE0 and segment.startswith(b"JFIF\0") and len(segment) >= 14) or (
            marker == 0xEE and segment.startswith(b"Adobe") and len(segment) >= 12
        )
        if is_colour or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            pieces.append(view[position:end])
        position = end
    else:
        raise Refusal(Reason.DAMAGED)
    width, height, coefficient_bytes = _read_frame(frame)
    return Picture(b"".join([*pieces, view[position:]]), width, height, orientation, coefficient_bytes)


def _read_frame(frame: bytes) -> tuple[int, int, int]:
    """Width, height and bytes of coefficients of a JPEG from its SOF marker and segment (ITU-T T.81, B.2.2)."""
    if len(frame) < 7:
        raise Refusal(Reason.DAMAGED)
    marker, bits, height, width, channels = struct.unpack_from(">BBHHB", frame)
    if marker not in (0xC0, 0xC1, 0xC2, 0xC9, 0xCA):
        raise Refusal(Reason.JPEG_PROCESS, marker - 0xC0)
    if bits != 8:
        raise Refusal(Reason.JPEG_BITS, bits)
    if channels not in (1, 3, 4):
        raise Refusal(Reason.JPEG_CHANNELS, channels)
    if width == 0 or height == 0 or len(frame) < 7 + 3 * channels:
        raise Refusal(Reason.DAMAGED)
    factors = [(byte >> 4, byte & 15) for byte in frame[8 : 7 + 3 * channels : 3]]
    full = max(across for across, _ in factors) * max(down for _, down in factors)
    if full == 0:
        raise Refusal(Reason.DAMAGED)
    is_progressive = marker in (0xC2, 0xCA)
    shares = sum(across * down for across, down in factors) / full
    return width, height, int(2 * width * height * shares) if is_progressive else 0


def _orientation(exif: bytes) -> int:
    """The orientation (1 to 8) in the first directory of EXIF data; 1 if there is none that can be read.

    Unlike Pillow, it does not mind a fault in another entry.
    """
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (position,) = struct.unpack_from(f"{order}I", exif, 4)
        (entries,) = struct.unpack_from(f"{order}H", exif, position)
        for place in range(position + 2, position + 2 + 12 * entries, 12):
            tag, kind, count = struct.unpack_from(f"{order}HHI", exif, place)
            if tag == 0x0112 and count == 1 and kind in (1, 3, 4):
                (value,) = struct.unpack_from(order + {1: "B", 3: "H", 4: "I"}[kind], exif, place + 8)
                return int(value) if 1 <= value <= 8 else 1
    except struct.error:
        pass
    return 1


def answer(content: bytes, *arguments: int) -> bytes:
    """The answer to a request."""
    try:
        channels, height, width, follows_exif, max_pixels = arguments
        return DECODED + decode(content, channels, height, width, bool(follows_exif), max_pixels)
    except Refusal as refusal:
        return REFUSED + refusal.answer
    except MemoryError:
        return REFUSED + REFUSAL.pack(Reason.MEMORY, 0, MEMORY_BYTES)
    except Exception as error:  # for damaged files, Pillow raises many types, even struct.error and IndexError
        reason = Reason.CUT if "truncated" in str(error) else Reason.DAMAGED
        return REFUSED + REFUSAL.pack(reason, 0, 0)


def warm_up() -> None:
    """Decode a picture of each kind, so that all that Pillow imports late is imported."""
    Image.preinit()  # the plugins
    Image.MAX_IMAGE_PIXELS = None  # `decode` knows the sizes before Pillow does, and has a limit of its own
    for kind, modes in {"PNG": ("1", "L", "P", "I;16", "LA", "RGB", "RGBA"), "JPEG": ("L", "RGB", "CMYK")}.items():
        for mode in modes:
            file = io.BytesIO()
            Image.new(mode, (16, 16)).save(file, kind)
            for channels in (1, 3):
                decode(file.getvalue(), channels, 8, 8, True, 1 << 20)


def _drop_rights() -> None:
    limits = {resource.RLIMIT_NOFILE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NPROC: 0, resource.RLIMIT_CORE: 0}
    if sys.platform == "linux":
        limits[resource.RLIMIT_AS] = MEMORY_BYTES
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def main() -> None:
    warm_up()
    _drop_rights()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(READY)
    answers.flush()
    while header := requests.read(HEADER.size):
        size, *arguments, seconds = HEADER.unpack(header)
        content = requests.read(size)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
        result = answer(content, *arguments)
        del content
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(result)
        answers.flush()


if __name__ == "__main__":
    main()
