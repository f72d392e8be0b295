"""How much work a JSON text makes, found out before it is parsed: a small text can hold a great many values."""

from collections.abc import Iterator

from app.base.errors import Problem

SLICE_BYTES = 1 << 20  # counted at once; other threads can run after each
_SIGNS = (b",", b"[", b"{")
MAX_LISTS = 65_536  # parsing holds the interpreter, and a list takes as long as twenty numbers


class TooManyValues(Problem):
    """The JSON has too many numbers, texts, lists and members. Send less, or send tensors raw instead of as JSON."""

    status, slug, title = 413, "too-many-values", "The JSON has too many values"


def demand_few_values(text: bytes | memoryview, limit: int, advice: str, members: int | None = None) -> None:
    """Raise `TooManyValues` if the JSON may have more values than this, or more than `MAX_LISTS` lists and objects.

    Counts commas and opening brackets, those in strings too, which takes a hundredth of the time of parsing.
    members: the most members of objects, if colons in strings may count as well.
    """
    values, lists, colons = 1, 0, 0
    for piece in _slices(text):
        values += sum(map(piece.count, _SIGNS))
        lists += piece.count(b"[") + piece.count(b"{")
        colons += piece.count(b":")
        if values > limit:
            raise TooManyValues(f"The JSON has more than {limit:,} values. {advice}")
        if lists > MAX_LISTS:
            raise TooManyValues(f"The JSON has more than {MAX_LISTS:,} lists and objects. {advice}")
        if members is not None and colons > members:
            raise TooManyValues(f"The JSON has more than {members:,} members. {advice}")


def _slices(text: bytes | memoryview) -> Iterator[bytes]:
    for start in range(0, len(text), SLICE_BYTES):
        yield bytes(text[start : start + SLICE_BYTES])
