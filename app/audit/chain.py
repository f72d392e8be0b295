"""The chain of audit events. Each event has a digest over its content and the previous event's digest.

Anyone who changes, removes, adds or reorders a row breaks the chain. An anchor, which is a number and a digest stored
outside the database, also exposes anyone who recomputes the digests of all later events.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

GENESIS = "0" * 64  # the "previous digest" of the first event
OPTIONAL = ("request_id", "actor_id")  # events of the service itself, and of earlier versions, lack some
FIELDS = ("id", "at", "actor", "action", "model", "subject", "reason", "details")


@dataclass(frozen=True)
class Head:
    """The newest event. In an anchor: the event that was the newest at that time."""

    number: int
    digest: str


@dataclass(frozen=True)
class Fault:
    """What is wrong at the event with this number."""

    number: int
    what: str


def digest_of(number: int, previous: str, event: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON (sorted keys, no spaces, UTF-8) of the number, `previous` and `FIELDS`.

    Also over those of `OPTIONAL` that the event has.
    """
    covered = {name: event[name] for name in FIELDS} | {"number": number, "previous": previous}
    covered |= {name: event[name] for name in OPTIONAL if event.get(name) is not None}
    if isinstance(covered["at"], datetime):
        covered["at"] = covered["at"].isoformat(timespec="microseconds")
    canonical = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


BEGINNING = Head(0, GENESIS)  # before the first event


def faults(
    events: Iterable[Mapping[str, Any]], head: Head, anchors: Sequence[Head] = (), last: Head = BEGINNING
) -> Iterator[Fault]:
    """Everything that is wrong with the chain after `last`, in the order of its numbers.

    events: all those after `last`, with `FIELDS`, `OPTIONAL`, `number`, `previous` and `digest`, by ascending number.
    head: the newest event according to the database. anchors: earlier heads that were stored elsewhere.
    """
    anchored = dict[int, set[str]]()
    for anchor in anchors:
        anchored.setdefault(anchor.number, set()).add(anchor.digest)
    if anchored.get(last.number, set()) - {last.digest}:
        yield Fault(last.number, "the event differs from the anchored one")
    for event in events:
        number = event["number"]
        if number > last.number + 1:
            yield Fault(last.number + 1, f"events {last.number + 1} to {number - 1} are missing")
        elif number <= last.number:
            yield Fault(number, "the event is out of order or duplicated")
        if event["previous"] != last.digest:
            yield Fault(number, "the event does not follow the previous one")
        if digest_of(number, event["previous"], event) != event["digest"]:
            yield Fault(number, "the event was changed")
        if anchored.get(number, set()) - {event["digest"]}:
            yield Fault(number, "the event differs from the anchored one")
        last = Head(number, event["digest"])
    newest = max(anchored, default=0)
    if newest > last.number:
        yield Fault(last.number + 1, f"the events after {last.number} are missing; the anchor is event {newest}")
    if head != last:
        yield Fault(last.number, f"the chain ends here, but its head is event {head.number}")
