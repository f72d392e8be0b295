"""Requests begin a few at a time, keys in turns; bodies in memory have a bound for all and for one key."""

import asyncio

import httpx
import pytest

from app.api import body_memory
from app.api.admission import AT_ONCE, Admission
from app.api.body_memory import BodiesTooLarge, BodyMemory
from tests.app.conftest import HTTP, Service, begins_with, on_one_database
from tests.app.factories import infer_request


def test_requests_begin_a_few_in_a_round_and_callers_in_turns() -> None:
    begun: list[tuple[int, bytes]] = []
    rounds = 0

    async def request(admission: Admission, caller: bytes) -> None:
        await admission.turn(caller)
        begun.append((rounds, caller))

    async def flood() -> None:
        nonlocal rounds
        admission = Admission()
        tasks = [asyncio.create_task(request(admission, caller)) for caller in [b"one"] * 100 + [b"other"] * 3]
        while not all(task.done() for task in tasks):
            rounds += 1
            await asyncio.sleep(0)
        await request(admission, b"later")  # nobody waits any more

    asyncio.run(flood())
    of_round = [number for number, _ in begun]
    assert max(map(of_round.count, of_round)) <= AT_ONCE
    assert [caller for _, caller in begun].index(b"other") <= 2 * AT_ONCE
    assert len(begun) == 104


def test_a_request_that_was_given_up_takes_no_turn() -> None:
    async def flood() -> None:
        admission = Admission()
        tasks = [asyncio.create_task(admission.turn(b"one")) for _ in range(20)]
        await asyncio.sleep(0)
        for task in tasks[AT_ONCE:-1]:
            task.cancel()
        await asyncio.wait_for(tasks[-1], 5)

    asyncio.run(flood())


def test_bodies_wait_for_room_and_are_refused_if_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body_memory, "WAIT_SECONDS", 0.2)
    monkeypatch.setattr(body_memory, "SMALL_BYTES", 10)

    async def fill() -> None:
        memory = BodyMemory(100)
        with memory.of("one") as first, memory.of("one") as second, memory.of("other") as third:
            await first.arrive(50)
            with pytest.raises(BodiesTooLarge, match="of which 50 belong to this key"):
                await second.arrive(1)
            await third.arrive(50)  # half is left for others
            with pytest.raises(BodiesTooLarge):
                await third.arrive(1)
        with memory.of("one") as first:
            await first.arrive(500)  # the only one
            with memory.of("third") as small:
                await small.arrive(10)  # each key gets these at once
            with memory.of("other") as waiting:
                task = asyncio.create_task(waiting.arrive(20))
                await asyncio.sleep(0.05)
                assert not task.done()
                memory._held["one"] = 0  # as if it were answered
                memory._freed.set()
                await task
                memory._held["one"] = 500

    asyncio.run(fill())


def test_bodies_that_do_not_fit_together_are_held_one_after_the_other() -> None:
    """Each reserves its whole length first: half of each would wait for the other's rest."""

    async def hold(memory: BodyMemory) -> None:
        with memory.of("one") as body:
            await body.reserve(40 << 20)
            for _ in range(4):
                await body.arrive(10 << 20)
                await asyncio.sleep(0.01)
            assert memory._held["one"] <= 50 << 20

    async def all_of_them() -> None:
        memory = BodyMemory(100 << 20)
        await asyncio.gather(*(hold(memory) for _ in range(6)))
        assert not memory._held

    asyncio.run(all_of_them())


@on_one_database
@begins_with()
def test_a_body_that_finds_no_room_gets_503_and_no_memory_leaks(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(body_memory, "WAIT_SECONDS", 0.2)
    headers = {"Authorization": service.reader._http.headers["Authorization"]}
    path = f"{service.url}/v2/models/birds/infer"

    async def together() -> list[httpx.Response]:
        async def slowly() -> object:
            yield b" " * 1000  # in chunks, so that nobody knows how many come
            await asyncio.sleep(1)
            yield b" " * 1000

        async with httpx.AsyncClient(timeout=60) as client:
            slow = asyncio.create_task(client.post(path, content=slowly(), headers=headers))  # type: ignore[arg-type]
            await asyncio.sleep(0.3)
            return [await client.post(path, content=b" " * 600, headers=headers), await slow]

    monkeypatch.setattr(BodyMemory, "_has_room", lambda self, caller, count: self._held.total() + count <= 1500)
    refused, slow = asyncio.run(together())
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert refused.json()["type"] == "urn:lirf:problem:bodies-too-large"
    assert slow.status_code == 503  # it does not fit either
    for _ in range(5):
        assert HTTP.post(path, json=infer_request(1), headers=headers).status_code == 200
