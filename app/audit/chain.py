"""The chain of audit events: each carries a digest over itself and the digest of the one before it.

Who changes, removes, adds or reorders a row breaks the chain. Who rewrites all that follows as well is found out by an
anchor: a number and a digest that were written down outside the database before.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

FIRST = "0" * 64  # what the first event has for the digest before it
FIELDS = ("id", "at", "actor", "action", "model", "subject", "reason", "details")


@dataclass(frozen=True)
class Head:
    """The newest event, or one that was the newest when it was written down (an anchor)."""

    number: int
    digest: str


@dataclass(frozen=True)
class Fault:
    """What does not hold, at the event of that number."""

    number: int
    what: str


def digest_of(number: int, previous: str, event: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON (sorted keys, no spaces, UTF-8) of the number, `previous` and `FIELDS`.

    And of `request_id` where there is one: what the service does itself, and the first release's events, have none.
    """
    covered = {name: event[name] for name in FIELDS} | {"number": number, "previous": previous}
    if event.get("request_id") is not None:
        covered["request_id"] = event["request_id"]
    if isinstance(covered["at"], datetime):
        covered["at"] = covered["at"].isoformat(timespec="microseconds")
    canonical = json.dumps(covered, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()


def faults(events: Iterable[Mapping[str, Any]], head: Head, anchor: Head | None = None) -> Iterator[Fault]:
    """Whatever is wrong with a whole chain, in the order of its numbers.

    events: with `FIELDS`, `request_id`, `number`, `previous` and `digest`, by ascending number. head: what the database
    says is the newest event. anchor: a head that was written down before.
    """
    last = Head(0, FIRST)
    for event in events:
        number = event["number"]
        if number > last.number + 1:
            yield Fault(last.number + 1, f"events {last.number + 1} to {number - 1} are missing")
        elif number <= last.number:
            yield Fault(number, "the event is out of order or doubled")
        if event["previous"] != last.digest:
            yield Fault(number, "the event does not follow the one before it")
        if digest_of(number, event["previous"], event) != event["digest"]:
            yield Fault(number, "the event was changed")
        if anchor and number == anchor.number and event["digest"] != anchor.digest:
            yield Fault(number, "the event is not the one that was anchored")
        last = Head(number, event["digest"])
    if anchor and anchor.number > last.number:
        yield Fault(last.number + 1, f"the events after {last.number} are missing; {anchor.number} was anchored")
    if head != last:
        yield Fault(last.number, f"the chain ends here, but its head says {head.number}")
