"""Images of strangers are decoded in processes that have nothing to lose: no files, no secrets, little memory and time.

What comes back is a number of bytes that was known before, and is never unpickled: a decoder that an image has taken
over can lie about its pixels, and nothing else.
"""

import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass

import torch
from torch import Tensor

from lirf_core.images import decoder_process
from lirf_core.images.decoder_process import DECODED, HEADER, READY
from lirf_core.images.preprocessing import Preprocessing

MAX_PIXELS = 32_000_000
START_SECONDS = 60.0
STALL_SECONDS = 60.0  # of a machine so busy that a decoder does not come to its limit of CPU seconds


class UnreadableImage(ValueError):
    """It is no PNG or JPEG, or takes more pixels, memory or time than an image may."""


class _Decoder:
    """One process. Raises OSError wherever it has ended or does not answer."""

    def __init__(self) -> None:
        self._socket, its_end = socket.socketpair()
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", decoder_process.__file__],
            stdin=its_end.fileno(),
            stdout=its_end.fileno(),
            stderr=subprocess.DEVNULL,
            env={},
            cwd="/",
            start_new_session=True,  # Ctrl-C is for the service
        )
        its_end.close()
        self._socket.settimeout(START_SECONDS)
        if self._receive(1) != READY:
            raise OSError("the decoder did not start")
        self._socket.settimeout(STALL_SECONDS)

    @property
    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def decode(self, content: bytes, size: Preprocessing, max_pixels: int, seconds: float) -> bytes | None:
        """None: no PNG or JPEG."""
        header = HEADER.pack(len(content), size.channels, size.height, size.width, max_pixels, seconds)
        self._socket.sendall(header)
        self._socket.sendall(content)
        if self._receive(1) != DECODED:
            return None
        return self._receive(size.channels * size.height * size.width)

    def _receive(self, count: int) -> bytes:
        received = bytearray()
        while len(received) < count:
            piece = self._socket.recv(count - len(received))
            if not piece:
                raise ConnectionError("the decoder has ended")
            received += piece
        return bytes(received)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._socket.close()


@dataclass(frozen=True)
class ImageLimits:
    """What one image may take; memory is bounded by `decoder_process.MEMORY_BYTES`. seconds: of CPU."""

    pixels: int = MAX_PIXELS
    seconds: float = 5.0


class Decoders:
    """Starts a process when one is needed, keeps it for the next image, and replaces those that an image has killed.

    at_most: processes at a time, so many images are decoded at once; others wait.
    """

    def __init__(self, limits: ImageLimits | None = None, at_most: int | None = None) -> None:
        self.limits = limits or ImageLimits()
        self._free = threading.BoundedSemaphore(at_most or min(4, os.cpu_count() or 1))
        self._idle: list[_Decoder] = []  # append and pop are atomic

    def decode(self, content: bytes, size: Preprocessing) -> bytes:
        """uint8 pixels (C, H, W) in the network's channels and size. Raises `UnreadableImage`."""
        with self._free:
            decoder = self._take()
            try:
                pixels = decoder.decode(content, size, self.limits.pixels, self.limits.seconds)
            except OSError as error:
                decoder.end()
                raise UnreadableImage("the image takes more memory or time than an image may.") from error
            except BaseException:
                decoder.end()  # what it would answer next belongs to this image
                raise
            self._idle.append(decoder)
        if pixels is None:
            raise UnreadableImage("this is no readable PNG or JPEG image.")
        return pixels

    def tensor(self, content: bytes, size: Preprocessing) -> Tensor:
        """uint8 (1, C, H, W). Raises `UnreadableImage`."""
        flat = torch.frombuffer(bytearray(self.decode(content, size)), dtype=torch.uint8)
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
