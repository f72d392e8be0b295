"""Decoding of untrusted images, in processes without files and secrets and with little memory and time.

An answer has a number of bytes that is known in advance, and is never unpickled. So if an image takes over a decoder,
it can only return wrong pixels or a wrong reason.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lirf_core.images import decoder_process
from lirf_core.images.decoder_process import DECODED, HEADER, MEMORY_BYTES, READY, REFUSAL, Reason
from lirf_core.images.formats import START_BYTES, name_format
from lirf_core.images.hidden_memory import hide_memory
from lirf_core.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 100_000_000
START_SECONDS = 60.0
STALL_SECONDS = 60.0  # for a machine so busy that a decoder does not reach its limit of CPU time


class UnreadableImage(ValueError):
    """The image is not a PNG or JPEG, or needs more pixels, memory or time than allowed.

    The message says which, with the value and the limit.
    """


class _Decoder:
    """One process. Each method raises OSError if the process has ended or does not answer."""

    def __init__(self) -> None:
        self._socket, remote = socket.socketpair()
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", decoder_process.__file__],
            stdin=remote.fileno(),
            stdout=remote.fileno(),
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,  # so that Ctrl-C reaches only the service
        )
        remote.close()
        self._socket.settimeout(START_SECONDS)
        if self._receive(1) != READY:
            raise OSError("the decoder did not start")
        self._socket.settimeout(STALL_SECONDS)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    @property
    def has_used_its_time(self) -> bool:
        """Whether the limit of CPU time ended the process, which no longer answers."""
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(1) == -signal.SIGPROF
        return False

    def decode(self, content: bytes, size: Preprocessing, limits: "ImageLimits") -> bytes:
        """The pixels. Raises `UnreadableImage` if the decoder refuses the image."""
        shape = size.channels, size.height, size.width
        follows_exif = size.exif_orientation == "apply"
        self._socket.sendall(HEADER.pack(len(content), *shape, follows_exif, limits.pixels, limits.seconds))
        self._socket.sendall(content)
        if self._receive(1) != DECODED:
            reason, first, second = REFUSAL.unpack(self._receive(REFUSAL.size))
            raise UnreadableImage(_explain(reason, first, second, content[:START_BYTES], limits))
        return self._receive(size.channels * size.height * size.width)

    def _receive(self, count: int) -> bytes:
        received = bytearray()
        while len(received) < count:
            piece = self._socket.recv(count - len(received))
            if not piece:
                raise ConnectionError("the decoder has ended")
            received += piece
        return bytes(received)

    def kill(self) -> None:
        self._process.kill()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._socket.close()


@dataclass(frozen=True)
class ImageLimits:
    """The most that one image may use; memory: `decoder_process.MEMORY_BYTES`. seconds: of CPU time."""

    pixels: int = MAX_PIXELS
    seconds: float = 5.0


class GivenUp(threading.Event):
    """Set when nobody waits for an image any more. That ends the decoder which is at work for it."""

    def __init__(self) -> None:
        super().__init__()
        self._kill: Callable[[], None] | None = None
        self._lock = threading.Lock()

    def set(self) -> None:
        with self._lock:
            super().set()
            if self._kill:
                self._kill()

    @contextmanager
    def ends(self, decoder: "_Decoder") -> Iterator[None]:
        """While the block runs. After it, the decoder may work for somebody else."""
        with self._lock:
            self._kill = decoder.kill
            if self.is_set():
                decoder.kill()
        try:
            yield
        finally:
            with self._lock:
                self._kill = None


class Decoders:
    """Decoder processes: started when needed, kept for the next image, replaced if an image kills them.

    None of them can read the memory of this process, which is hidden from now on.
    at_most: processes, and so images that are decoded at the same time; others wait.
    """

    def __init__(self, limits: ImageLimits | None = None, at_most: int | None = None) -> None:
        hide_memory()
        self.limits = limits or ImageLimits()
        self._free = threading.BoundedSemaphore(at_most or min(4, os.cpu_count() or 1))
        self._idle: list[_Decoder] = []  # append and pop are atomic

    def decode(self, content: bytes, size: Preprocessing, given_up: "GivenUp | None" = None) -> bytes:
        """uint8 pixels (C, H, W) in the network's channels and size. Raises `UnreadableImage`.

        given_up: ends the decoder when set.
        """
        with self._free:
            if given_up and given_up.is_set():
                raise UnreadableImage("Nobody waits for the image any more.")
            decoder = self._take()
            try:
                with given_up.ends(decoder) if given_up else nullcontext():
                    pixels = decoder.decode(content, size, self.limits)
            except UnreadableImage:
                self._idle.append(decoder)
                raise
            except TimeoutError as error:
                decoder.end()
                raise UnreadableImage(f"The image was not decoded within {STALL_SECONDS:g} seconds.") from error
            except OSError as error:
                has_used_its_time = decoder.has_used_its_time
                decoder.end()
                if has_used_its_time:
                    raise UnreadableImage(
                        f"The image takes more than {self.limits.seconds:g} seconds to decode, which is the limit. "
                        "Make it smaller."
                    ) from error
                raise UnreadableImage("The decoder ended while it read the image. Save the image again.") from error
            except BaseException:
                decoder.end()  # its next answer would belong to this image
                raise
            self._idle.append(decoder)
        return pixels

    def tensor(self, content: bytes, size: Preprocessing, given_up: "GivenUp | None" = None) -> "Tensor":
        """uint8 (1, C, H, W). Raises `UnreadableImage`."""
        import torch

        flat = torch.frombuffer(bytearray(self.decode(content, size, given_up)), dtype=torch.uint8)
        return flat.view(1, size.channels, size.height, size.width)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().end()

    def _take(self) -> _Decoder:
        while self._idle:
            decoder = self._idle.pop()
            if not decoder.has_ended:
                return decoder
            decoder.end()
        return _Decoder()


def _explain(reason: int, first: int, second: int, start: bytes, limits: ImageLimits) -> str:
    """The message for a refusal. start: the first bytes of the file."""
    image = name_format(start)
    match reason:
        case Reason.CUT:
            return f"This is {image} that ends too early. Copy the file again."
        case Reason.PIXELS:
            return (
                f"The image has {first} x {second} pixels, which is {first * second:,}; the limit is "
                f"{limits.pixels:,}. Make it smaller."
            )
        case Reason.MEMORY:
            pixels = f"The image has {first:,} pixels. To decode it" if first else "To decode the image"
            return (
                f"{pixels} takes {second / 1e6:,.0f} MB of memory or more; the limit is {MEMORY_BYTES / 1e6:,.0f} MB, "
                "of which the decoder itself needs some. Make it smaller, or save it as a JPEG that is not progressive."
            )
        case Reason.JPEG_BITS:
            return f"This JPEG has {first} bits for each value; only JPEGs of 8 bits can be decoded. Convert it."
        case Reason.JPEG_CHANNELS:
            return f"This JPEG has {first} channels; only JPEGs of 1, 3 or 4 channels can be decoded. Convert it."
        case Reason.JPEG_PROCESS:
            return f"This is a lossless or hierarchical JPEG (SOF{first}), which cannot be decoded. Convert it."
        case Reason.FORMAT:
            return f"This is {image}. Only PNG and JPEG images can be decoded. Convert it."
        case _:
            return f"This is {image} that is damaged. Save it again."
