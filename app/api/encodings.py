"""Compressed bodies and answers (`Content-Encoding`). What a body really unpacks to is counted, piece by piece."""

import gzip
import zlib
from collections.abc import Iterator

from app.base.errors import Problem

PIECE_BYTES = 1 << 20  # unpacked at once
CODINGS = ("gzip", "deflate")
FAST = 1  # zlib's fastest level


def accepted(accept_encoding: str) -> str | None:
    """The coding of an answer, by the header `Accept-Encoding` of its request; None if it must stay as it is."""
    choices = {}
    for choice in accept_encoding.lower().split(","):
        name, _, parameters = choice.partition(";")
        choices[name.strip()] = parameters.replace(" ", "") not in ("q=0", "q=0.0", "q=0.00", "q=0.000")
    return next((coding for coding in CODINGS if choices.get(coding, False)), None)


def packed(body: bytes, coding: str) -> bytes:
    """coding: `gzip` or `deflate`. Fast rather than small: numbers as text halve, raw ones hardly shrink at all."""
    return gzip.compress(body, FAST) if coding == "gzip" else zlib.compress(body, FAST)


class UnknownEncoding(Problem):
    """The `Content-Encoding` is not `gzip`, `deflate` or `identity`. Send the body with one of these."""

    status, slug, title = 415, "unknown-encoding", "The body is compressed in an unknown way"


class DamagedEncoding(Problem):
    """The compressed body is damaged or ends early. Compress it again, or send it uncompressed."""

    status, slug, title = 400, "damaged-encoding", "The compressed body is damaged"


class Unpacking:
    """Unpacks a body as it arrives. coding: `gzip` or `deflate`. Raises `UnknownEncoding`."""

    def __init__(self, coding: str) -> None:
        self._coding = coding.strip().lower().removeprefix("x-")
        if self._coding not in CODINGS:
            raise UnknownEncoding(
                f"The Content-Encoding is '{coding[:40]}'. Send {' or '.join(CODINGS)}, or the plain body without one."
            )
        self._stream: zlib._Decompress | None = None

    def unpacked(self, packed: bytes) -> Iterator[bytes]:
        """What the next piece of the body unpacks to, in pieces of at most `PIECE_BYTES`. Raises `DamagedEncoding`."""
        while packed:
            if self._stream is None or (self._stream.eof and self._coding == "gzip"):  # gzip may have several members
                self._stream = self._begin(packed)
            if self._stream.eof:
                raise self._damaged("has bytes after its end")
            try:
                piece = self._stream.decompress(packed, PIECE_BYTES)
            except zlib.error as error:
                raise self._damaged("cannot be unpacked") from error
            packed = self._stream.unused_data if self._stream.eof else self._stream.unconsumed_tail
            if piece:
                yield piece

    def end(self) -> None:
        """Raises `DamagedEncoding` if the body ended early."""
        if self._stream is not None and not self._stream.eof:
            raise self._damaged("ends early")

    def _begin(self, packed: bytes) -> "zlib._Decompress":
        if self._coding == "gzip":
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        has_header = packed[0] & 0x0F == 8  # RFC 9110 wants zlib's format; some clients send the bare stream
        return zlib.decompressobj(zlib.MAX_WBITS if has_header else -zlib.MAX_WBITS)

    def _damaged(self, fault: str) -> DamagedEncoding:
        return DamagedEncoding(
            f"The body's Content-Encoding is {self._coding}, but the body {fault}. Compress it again."
        )
