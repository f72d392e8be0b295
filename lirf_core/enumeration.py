"""A list of names as part of a sentence."""

from collections.abc import Sequence


def enumerated(names: Sequence[str], most: int = 10) -> str:
    """Return the first `most` names separated by commas, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
