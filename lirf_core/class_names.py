"""Names of classes. Two names are the same class if their normal forms are equal, however they were typed."""

import unicodedata
from collections.abc import Iterable


def normal_form(name: str) -> str:
    """The name in Unicode's normal form C, in which 'é' is one character. macOS writes it as two in file names."""
    return unicodedata.normalize("NFC", name)


def indices(names: Iterable[str]) -> dict[str, int]:
    """The index of each class, by the normal form of its name."""
    return {normal_form(name): number for number, name in enumerate(names)}
