"""Decoding of untrusted images, in processes without files and secrets and with little memory and time.

An answer has a number of bytes that is known in advance, and is never unpickled. So if an image takes over a decoder,
it can only return wrong pixels.
"""

import os
import socket
import subprocess
import sys
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lirf_core.images import decoder_process
from lirf_core.images.decoder_process import DECODED, HEADER, READY
from lirf_core.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from torch import Tensor

MAX_PIXELS = 32_000_000
START_SECONDS = 60.0
STALL_SECONDS = 60.0  # for a machine so busy that a decoder does not reach its limit of CPU time


class UnreadableImage(ValueError):
    """The image is not a PNG or JPEG, or needs more pixels, memory or time than allowed."""


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

    def decode(self, content: bytes, size: Preprocessing, max_pixels: int, seconds: float) -> bytes | None:
        """The pixels, or None if the content is not a PNG or JPEG."""
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
    """The most that one image may use; memory: `decoder_process.MEMORY_BYTES`. seconds: of CPU time."""

    pixels: int = MAX_PIXELS
    seconds: float = 5.0


class Decoders:
    """Decoder processes: started when needed, kept for the next image, replaced if an image kills them.

    at_most: processes, and so images that are decoded at the same time; others wait.
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
                raise UnreadableImage("The image needs more memory or time than an image may use.") from error
            except BaseException:
                decoder.end()  # its next answer would belong to this image
                raise
            self._idle.append(decoder)
        if pixels is None:
            raise UnreadableImage("This is not a readable PNG or JPEG image.")
        return pixels

    def tensor(self, content: bytes, size: Preprocessing) -> "Tensor":
        """uint8 (1, C, H, W). Raises `UnreadableImage`."""
        import torch

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
