"""Requests that wait while the device is busy: which are computed together, refused or cancelled."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy
import pytest
import torch
import tritonclient.http as triton
from torch import Tensor
from tritonclient.utils import InferenceServerException

from app.inference.batches import Batcher, BatchLimits, InvalidLogits, Overloaded, QueuedRequest
from app.inference.engine import InferenceEngine, Inputs
from app.inference.views import SERVED, View, ViewSelector
from app.vault.service import StoredObject, Vault
from lirf_core.compute import Compute
from lirf_core.recover import RecoverNetwork
from tests.app.conftest import HTTP, Service, begins_with, started
from tests.app.factories import CLASSES, infer_request
from worker.work import Work


class BusyDevice:
    """A device that computes nothing before `may_continue` is set.

    batches: for each batch, the number of images of each request.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_continue, self.batches = threading.Event(), list[list[int]]()
        logits_of = Batcher._logits_of

        def wait_and_compute(batcher: Batcher, batch: Sequence[QueuedRequest]) -> list[Tensor]:
            self.batches.append([len(request.inputs) for request in batch])
            assert self.may_continue.wait(60)
            return logits_of(batcher, batch)

        monkeypatch.setattr(Batcher, "_logits_of", wait_and_compute)

    def wait_for_batches(self, count: int) -> None:
        end = time.monotonic() + 60
        while len(self.batches) < count:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[BusyDevice]:
    device = BusyDevice(monkeypatch)
    yield device
    device.may_continue.set()


def engine_of(service: Service, limits: BatchLimits | None = None) -> InferenceEngine:
    vault = Work(service.settings).vault
    return InferenceEngine(service.database, vault, Compute.for_inference("cpu"), 1 << 30, limits)


def queued(
    engine: InferenceEngine, images: Tensor, selector: ViewSelector = SERVED, model: str = "birds"
) -> QueuedRequest:
    opened = engine._open(model, selector, lambda _: Inputs.of(images))
    return QueuedRequest(opened.view, opened.target, opened.modules, images)


def random_images(count: int) -> Tensor:
    return torch.randn(count, 1, 8, 8)


@begins_with("auk", "emu")
def test_requests_of_several_views_are_one_batch_with_one_pass_of_the_target(
    service: Service, busy: BusyDevice
) -> None:
    """One customer holds the auks, one the emus, one nothing; an administrator asks the bare target."""
    auk, emu = service.deposits
    service.custodian.withdraw([auk], holder="public", reason="r")
    held = service.custodian.withdraw([emu], holder="h", reason="r", visibility="held")
    token = service.custodian.withdrawal_token(held["id"])
    engine = engine_of(service)
    first = queued(engine, random_images(1))
    others = [
        queued(engine, random_images(count), selector)
        for count, selector in [
            (2, SERVED),
            (3, ViewSelector((token,))),
            (1, SERVED),
            (4, ViewSelector(is_target_only=True)),
            (2, ViewSelector((token,), withdrawal_id=held["id"])),
        ]
    ]
    target = first.network.target
    one_by_one = [RecoverNetwork.forward(request.network, request.inputs) for request in others]
    passes: list[int] = []
    target.lower.register_forward_hook(lambda part, inputs, output: passes.append(len(inputs[0])))
    engine._batcher.submit(first)
    busy.wait_for_batches(1)
    for request in others:
        engine._batcher.submit(request)
    busy.may_continue.set()
    together = [request.logits.result(60) for request in others]
    assert busy.batches == [[1], [2, 3, 1, 4, 2]]
    assert passes == [1, 12]
    for logits, expected in zip(together, one_by_one, strict=True):
        assert logits is not None
        assert torch.allclose(logits, expected, atol=1e-4)
    assert [len(request.network.deposit_modules) for request in others] == [1, 2, 1, 0, 1]
    engine.close()


@begins_with()
def test_a_batch_has_its_limit_and_other_models_wait_their_turn(service: Service, busy: BusyDevice) -> None:
    service.register("others", seed=1)
    engine = engine_of(service, BatchLimits(images=4))
    counts = [("birds", 1), ("birds", 3), ("others", 2), ("birds", 2), ("birds", 1), ("others", 1), ("birds", 9)]
    requests = [queued(engine, random_images(count), model=model) for model, count in counts]
    engine._batcher.submit(requests[0])
    busy.wait_for_batches(1)
    for request in requests[1:]:
        engine._batcher.submit(request)
    busy.may_continue.set()
    results = [request.logits.result(60) for request in requests]
    assert busy.batches == [[1], [3, 1], [2, 1], [2], [9]]
    for request, logits in zip(requests, results, strict=True):
        assert logits is not None
        assert torch.allclose(logits, request.network(request.inputs), atol=1e-4)
    engine.close()


@begins_with()
def test_a_full_queue_refuses_requests_and_cancelled_requests_are_not_computed(
    service: Service, busy: BusyDevice
) -> None:
    engine = engine_of(service, BatchLimits(images=4, waiting=5))
    requests = [queued(engine, random_images(count)) for count in (1, 9, 3, 2)]
    engine._batcher.submit(requests[0])
    busy.wait_for_batches(1)
    engine._batcher.submit(requests[1])  # an empty queue takes a request of any size
    with pytest.raises(Overloaded, match=r"9 images are already waiting, and the queue has room for 5\."):
        engine._batcher.submit(requests[2])
    assert requests[1].logits.cancel()
    busy.may_continue.set()
    assert requests[0].logits.result(60) is not None
    engine._batcher.submit(requests[3])
    assert requests[3].logits.result(60) is not None
    assert busy.batches == [[1], [2]]
    engine.close()
    assert not any(thread.is_alive() for thread in engine._batcher._threads)


@begins_with()
def test_a_failing_batch_fails_only_its_own_requests(service: Service) -> None:
    engine = engine_of(service)
    bad, good = queued(engine, torch.randn(1, 5, 8, 8)), queued(engine, random_images(1))
    engine._batcher.submit(bad)
    with pytest.raises(RuntimeError, match="convolution"):
        bad.logits.result(60)
    engine._batcher.submit(good)
    assert good.logits.result(60) is not None
    engine.close()


@begins_with()
def test_of_one_batch_only_the_request_without_a_finite_answer_is_refused(service: Service, busy: BusyDevice) -> None:
    engine = engine_of(service)
    first, good, bad = (queued(engine, random_images(1)) for _ in range(3))
    bad.inputs.fill_(torch.nan)
    engine._batcher.submit(first)
    busy.wait_for_batches(1)
    for request in (good, bad):
        engine._batcher.submit(request)
    busy.may_continue.set()
    with pytest.raises(InvalidLogits, match="not finite"):
        bad.logits.result(60)
    logits = good.logits.result(60)
    assert logits is not None
    assert torch.allclose(logits, good.network(good.inputs), atol=1e-4)
    assert busy.batches == [[1], [1, 1]]
    engine.close()


@begins_with()
def test_callers_take_turns(service: Service, busy: BusyDevice) -> None:
    engine = engine_of(service, BatchLimits(images=2))
    many = [queued(engine, random_images(2)) for _ in range(4)]
    one = replace(queued(engine, random_images(1)), caller="another")
    engine._batcher.submit(many[0])
    busy.wait_for_batches(1)
    for request in (*many[1:], one):
        engine._batcher.submit(request)
    busy.may_continue.set()
    assert all(request.logits.result(60) is not None for request in (*many, one))
    assert busy.batches == [[2], [1], [2], [2], [2]]
    engine.close()


def test_overload_and_deadlines_over_http(service: Service, busy: BusyDevice) -> None:
    settings = service.settings.model_copy(update={"inference_queue": 2, "inference_threads": 1})
    service.register()
    headers = {"Authorization": f"Bearer {service.key_of('app')}"}
    with started(settings) as (url, _), ThreadPoolExecutor(3) as pool:

        def ask(count: int, **parameters: int) -> httpx.Response:
            body = {**infer_request(count), "parameters": parameters}
            return HTTP.post(f"{url}/v2/models/birds/infer", json=body, headers=headers)

        running = pool.submit(ask, 1)
        busy.wait_for_batches(1)
        late = ask(1, timeout=50_000)
        assert (late.status_code, late.json()["type"]) == (504, "urn:lirf:problem:deadline-passed")
        assert "0.05 seconds" in late.json()["detail"]
        waiting = pool.submit(ask, 2)
        time.sleep(0.5)
        refused = ask(1)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:lirf:problem:overloaded")
        assert refused.headers["Retry-After"] == "1"
        # Requests that need no device are not delayed.
        assert HTTP.get(f"{url}/v2/models/birds", headers=headers).status_code == 200
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        image = triton.InferInput("input", [1, 1, 8, 8], "UINT8")
        image.set_data_from_numpy(numpy.zeros((1, 1, 8, 8), numpy.uint8))
        with pytest.raises(InferenceServerException, match="images are already waiting"):
            client.infer("birds", [image], timeout=1_000_000, headers=headers)
        busy.may_continue.set()
        assert running.result().status_code == 200
        assert waiting.result().json()["outputs"][0]["shape"] == [2, len(CLASSES)]


@begins_with()
def test_a_request_ends_at_the_servers_deadline(service: Service, busy: BusyDevice) -> None:
    with started(service.settings.model_copy(update={"inference_seconds": 0.2, "inference_threads": 1})) as (url, _):
        headers = {"Authorization": f"Bearer {service.key_of('app')}"}
        body = {**infer_request(1), "parameters": {"timeout": 60_000_000}}
        answer = HTTP.post(f"{url}/v2/models/birds/infer", json=body, headers=headers)
        busy.may_continue.set()
        assert (answer.status_code, "0.2 seconds" in answer.json()["detail"]) == (504, True)


@begins_with()
def test_many_requests_at_once_open_each_part_once(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_of(service)
    reads = 0
    read = Vault.read

    def count_and_read(vault: Vault, stored: StoredObject) -> bytes:
        nonlocal reads
        reads += 1
        time.sleep(0.1)
        return read(vault, stored)

    monkeypatch.setattr(Vault, "read", count_and_read)

    async def all_at_once() -> list[tuple[View, Tensor]]:
        images = random_images(1)
        return list(
            await asyncio.gather(*(engine.answer("birds", SERVED, lambda _: Inputs.of(images)) for _ in range(20)))
        )

    assert len(asyncio.run(all_at_once())) == 20
    assert reads == 3  # trunk, rows and lower part
    engine.close()


@begins_with("auk")
def test_batches_of_one_image_give_equal_logits_to_the_last_bit(service: Service) -> None:
    service.custodian.withdraw([service.deposits[0]], holder="h", reason="r")
    engine = engine_of(service, BatchLimits(images=1))
    images = random_images(5)
    together, *alone = [queued(engine, part) for part in (images, *images.split(1))]
    for request in (together, *alone):
        engine._batcher.submit(request)
    results = [request.logits.result(60) for request in alone]
    logits = together.logits.result(60)
    assert logits is not None
    assert torch.equal(logits, torch.cat([rows for rows in results if rows is not None]))
    engine.close()
