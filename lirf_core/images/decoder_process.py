"""A program that decodes untrusted images. `decoding.Decoders` starts it; it can only read and write one socket.

It imports only Pillow and the standard library, opens no file, and the kernel kills it if it exceeds its limits.
Request: HEADER, then the file. Answer: one byte, 1 or 0, and after a 1 the pixels, channel by channel.
"""

import io
import resource
import signal
import struct
import sys

from PIL import Image

HEADER = struct.Struct(">QIIIQd")  # bytes of the file, channels, height, width, maximum of pixels, seconds of CPU time
READY, DECODED, REFUSED = b"\2", b"\1", b"\0"
MEMORY_BYTES = 1 << 30


def decode(content: bytes, channels: int, height: int, width: int, max_pixels: int) -> bytes:
    """uint8 pixels (C, H, W) of a PNG or JPEG. Raises what Pillow raises, and ValueError if it has too many pixels."""
    with Image.open(io.BytesIO(content), formats=["PNG", "JPEG"]) as image:
        if image.width * image.height > max_pixels:
            raise ValueError("too many pixels")
        image.draft(None, (width, height))  # decodes a large JPEG at the next larger size
        converted = image.convert("L" if channels == 1 else "RGB")
    if converted.size != (width, height):
        converted = converted.resize((width, height), Image.Resampling.BILINEAR)
    return b"".join(band.tobytes() for band in converted.split())


def _drop_rights() -> None:
    Image.preinit()  # imports the format plugins, which opens files
    limits = {resource.RLIMIT_NOFILE: 0, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_NPROC: 0, resource.RLIMIT_CORE: 0}
    if sys.platform == "linux":
        limits[resource.RLIMIT_AS] = MEMORY_BYTES
    for kind, limit in limits.items():
        resource.setrlimit(kind, (limit, limit))


def main() -> None:
    _drop_rights()
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(READY)
    answers.flush()
    while header := requests.read(HEADER.size):
        size, *arguments, seconds = HEADER.unpack(header)
        content = requests.read(size)
        signal.setitimer(signal.ITIMER_PROF, seconds)  # its signal ends the process
        try:
            answer = DECODED + decode(content, *arguments)
        except Exception:  # for damaged files, Pillow raises many types, even struct.error and IndexError
            answer = REFUSED
        signal.setitimer(signal.ITIMER_PROF, 0)
        answers.write(answer)
        answers.flush()


if __name__ == "__main__":
    main()
