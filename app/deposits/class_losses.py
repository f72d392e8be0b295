"""Preserved classes that lost much, which an average hides. Imports nothing, because the command uses it, too."""

from collections.abc import Collection, Mapping

NOTICEABLE = 5.0  # points that a class may lose before it is named
NAMED = 20  # classes


def fallen_warnings(
    how: str,
    before: Mapping[str, float | None],
    after: Mapping[str, float | None],
    preserved: Collection[str],
) -> list[str]:
    """Name each preserved class that lost more than `NOTICEABLE` points, which an average can hide; the worst first.

    how: the end of "lost 9.4 points ...". before, after: percent by class.
    """
    lost = {
        name: (start, end)
        for name, start in before.items()
        if name in preserved and start is not None and (end := after.get(name)) is not None and start - end > NOTICEABLE
    }
    ordered = sorted(lost, key=lambda name: lost[name][1] - lost[name][0])
    sentences = [
        f"The preserved class “{name}” lost {lost[name][0] - lost[name][1]:.1f} points {how} "
        f"({lost[name][0]:.1f} % to {lost[name][1]:.1f} %)."
        for name in ordered[:NAMED]
    ]
    if more := len(ordered) - NAMED:
        sentences += [f"{more} more preserved classes lost more than {NOTICEABLE:g} points."] if more > 0 else []
    return sentences
