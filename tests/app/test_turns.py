"""Callers take turns, and none gets all threads."""

import asyncio
import threading
import time

import pytest

from app.base.turns import MAX_WAITING, TooBusy, Turns


def test_a_caller_that_sends_much_leaves_room_for_another() -> None:
    gate = threading.Event()

    async def ask() -> None:
        turns = Turns("test", 2, of_one=1)
        slow = [asyncio.create_task(turns.run("many", gate.wait, 60)) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert await turns.run("another", lambda: "answered") == "answered"
        gate.set()
        assert all(await asyncio.gather(*slow))
        turns.close()

    asyncio.run(ask())


def test_callers_are_served_in_turns() -> None:
    gate, order = threading.Event(), list[str]()

    async def ask() -> None:
        turns = Turns("test", 1)
        first = asyncio.create_task(turns.run("", gate.wait, 60))
        await asyncio.sleep(0.05)
        callers = ["a", "a", "a", "b", "c", "b"]
        tasks = [asyncio.create_task(turns.run(caller, order.append, caller)) for caller in callers]
        await asyncio.sleep(0.05)
        gate.set()
        await asyncio.gather(first, *tasks)
        turns.close()

    asyncio.run(ask())
    assert order == ["a", "b", "c", "a", "b", "a"]


def test_a_cancelled_call_ends_at_once_and_its_thread_serves_others_when_it_is_free() -> None:
    gate = threading.Event()

    async def ask() -> None:
        turns = Turns("test", 1)
        running = asyncio.create_task(turns.run("a", gate.wait, 60))
        waiting = asyncio.create_task(turns.run("a", time.time))
        await asyncio.sleep(0.05)
        for task in (waiting, running):
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        following = asyncio.create_task(turns.run("b", lambda: "b"))
        await asyncio.sleep(0.05)
        assert not following.done()
        gate.set()
        assert await following == "b"
        turns.close()

    asyncio.run(ask())


def test_cancelling_a_call_that_runs_to_its_end_stops_it_and_waits() -> None:
    stop, has_ended = threading.Event(), threading.Event()

    def work() -> None:
        assert stop.wait(60)
        has_ended.set()

    async def ask() -> None:
        turns = Turns("test", 1)
        task = asyncio.create_task(turns.run_to_end("a", stop, work))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert has_ended.is_set()
        turns.close()

    asyncio.run(ask())


def test_a_caller_may_let_only_so_many_requests_wait() -> None:
    gate = threading.Event()

    async def ask() -> None:
        turns = Turns("test", 1)
        tasks = [asyncio.create_task(turns.run("a", gate.wait, 60)) for _ in range(MAX_WAITING + 1)]
        await asyncio.sleep(0.1)
        with pytest.raises(TooBusy, match=f"{MAX_WAITING} requests of this key are already waiting"):
            await turns.run("a", time.time)
        gate.set()
        await asyncio.gather(*tasks)
        turns.close()

    asyncio.run(ask())
