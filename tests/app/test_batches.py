"""Questions that wait while the device is busy: what is computed together, what is refused, what is given up."""

import asyncio
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy
import pytest
import torch
import tritonclient.http as triton
from torch import Tensor
from tritonclient.utils import InferenceServerException

from app.inference.batches import Batches, BatchLimits, Overloaded, Question
from app.inference.engine import InferenceEngine
from app.inference.views import Asked, View
from lirf_core.compute import Compute
from lirf_core.recover import RecoverNetwork
from tests.app.conftest import HTTP, Service, started
from tests.app.factories import CLASSES, infer_request
from worker.work import Work


class Busy:
    """A device that computes for as long as it is told to; `batches` has the images of each question in each batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.may_go_on, self.batches = threading.Event(), list[list[int]]()
        compute = Batches._computed

        def slowly(batches: Batches, batch: Sequence[Question]) -> list[Tensor]:
            self.batches.append([len(question.inputs) for question in batch])
            assert self.may_go_on.wait(60)
            return compute(batches, batch)

        monkeypatch.setattr(Batches, "_computed", slowly)

    def until_batches(self, count: int) -> None:
        end = time.monotonic() + 60
        while len(self.batches) < count:
            assert time.monotonic() < end
            time.sleep(0.01)


@pytest.fixture
def busy(monkeypatch: pytest.MonkeyPatch) -> Iterator[Busy]:
    device = Busy(monkeypatch)
    yield device
    device.may_go_on.set()


def engine_of(service: Service, limits: BatchLimits | None = None) -> InferenceEngine:
    vault = Work(service.settings).vault
    return InferenceEngine(service.database, vault, Compute.for_inference("cpu"), 1 << 30, limits)


def questions(engine: InferenceEngine, asked: Sequence[Asked], images: Sequence[Tensor]) -> list[Question]:
    return [
        engine._question("birds", one, lambda _, own=own: own)  # type: ignore[misc]
        for one, own in zip(asked, images, strict=True)
    ]


def test_requests_of_several_views_are_one_batch_with_one_pass_of_the_target(service: Service, busy: Busy) -> None:
    """One customer holds the auks, one the emus, one nothing; an administrator asks the bare target."""
    service.register()
    auk, emu = service.deposit(["auk"]), service.deposit(["emu"])
    service.custodian.withdraw([auk], holder="public", reason="r")
    held = service.custodian.withdraw([emu], holder="h", reason="r", visibility="held")
    token = service.custodian.withdrawal_token(held["id"])
    asked = [Asked(), Asked((token,)), Asked(), Asked(is_bare=True), Asked(withdrawal_id=held["id"], tokens=(token,))]
    images = [torch.randn(count, 1, 8, 8) for count in (2, 3, 1, 4, 2)]
    engine = engine_of(service)
    first, *others = questions(engine, [Asked(), *asked], [torch.randn(1, 1, 8, 8), *images])
    target = first.network.target
    alone = [RecoverNetwork.forward(question.network, question.inputs) for question in others]
    passes: list[int] = []
    target.lower.register_forward_hook(lambda part, inputs, output: passes.append(len(inputs[0])))
    engine._batches.ask(first)
    busy.until_batches(1)
    for question in others:
        engine._batches.ask(question)
    busy.may_go_on.set()
    found = [question.answer.result(60) for question in others]
    assert busy.batches == [[1], [2, 3, 1, 4, 2]]
    assert passes == [1, 12]
    for logits, wanted in zip(found, alone, strict=True):
        assert logits is not None
        assert torch.allclose(logits, wanted, atol=1e-4)
    assert [len(question.network.deposit_modules) for question in others] == [1, 2, 1, 0, 1]
    engine.close()


def test_a_batch_has_its_limit_and_other_models_wait_their_turn(service: Service, busy: Busy) -> None:
    service.register()
    service.register("others", seed=1)
    engine = engine_of(service, BatchLimits(images=4))
    asked = [("birds", 1), ("birds", 3), ("others", 2), ("birds", 2), ("birds", 1), ("others", 1), ("birds", 9)]
    made = [engine._question(name, Asked(), lambda _, n=n: torch.randn(n, 1, 8, 8)) for name, n in asked]  # type: ignore[misc]
    engine._batches.ask(made[0])
    busy.until_batches(1)
    for question in made[1:]:
        engine._batches.ask(question)
    busy.may_go_on.set()
    found = [question.answer.result(60) for question in made]
    assert busy.batches == [[1], [3, 1], [2, 1], [2], [9]]
    for question, logits in zip(made, found, strict=True):
        assert logits is not None
        assert torch.allclose(logits, question.network(question.inputs), atol=1e-4)
    engine.close()


def test_what_is_too_much_is_refused_and_what_nobody_waits_for_is_not_computed(service: Service, busy: Busy) -> None:
    service.register()
    engine = engine_of(service, BatchLimits(images=4, waiting=5))
    made = questions(engine, [Asked()] * 5, [torch.randn(count, 1, 8, 8) for count in (1, 9, 3, 2, 2)])
    engine._batches.ask(made[0])
    busy.until_batches(1)
    engine._batches.ask(made[1])  # where none waits, one may be as large as it likes
    with pytest.raises(Overloaded, match="9 images wait already"):
        engine._batches.ask(made[2])
    assert made[1].answer.cancel()
    busy.may_go_on.set()
    assert made[0].answer.result(60) is not None
    engine._batches.ask(made[3])
    assert made[3].answer.result(60) is not None
    assert busy.batches == [[1], [2]]
    engine.close()
    assert not any(thread.is_alive() for thread in engine._batches._threads)


def test_a_fault_of_one_batch_is_told_to_those_who_asked_and_the_next_is_computed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.register()
    engine = engine_of(service)
    bad, good = questions(engine, [Asked()] * 2, [torch.randn(1, 5, 8, 8), torch.randn(1, 1, 8, 8)])
    engine._batches.ask(bad)
    with pytest.raises(RuntimeError, match="convolution"):
        bad.answer.result(60)
    engine._batches.ask(good)
    assert good.answer.result(60) is not None
    engine.close()


def test_overload_and_deadlines_over_http(service: Service, busy: Busy) -> None:
    settings = service.settings.model_copy(update={"inference_queue": 2, "inference_threads": 1})
    service.register()
    headers = {"Authorization": f"Bearer {service.key_of('app')}"}
    with started(settings) as (url, _), ThreadPoolExecutor(3) as pool:

        def ask(count: int, **parameters: int) -> httpx.Response:
            body = {**infer_request(count), "parameters": parameters}
            return HTTP.post(f"{url}/v2/models/birds/infer", json=body, headers=headers)

        computed = pool.submit(ask, 1)
        busy.until_batches(1)
        late = ask(1, timeout=50_000)
        assert (late.status_code, late.json()["type"]) == (504, "urn:lirf:problem:deadline-passed")
        assert "0.05 seconds" in late.json()["detail"]
        waiting = pool.submit(ask, 2)
        time.sleep(0.5)
        refused = ask(1)
        assert (refused.status_code, refused.json()["type"]) == (503, "urn:lirf:problem:overloaded")
        assert refused.headers["Retry-After"] == "1"
        # Nothing of this holds up what needs no device.
        assert HTTP.get(f"{url}/v2/models/birds", headers=headers).status_code == 200
        client = triton.InferenceServerClient(url.removeprefix("http://"))
        given = triton.InferInput("input", [1, 1, 8, 8], "UINT8")
        given.set_data_from_numpy(numpy.zeros((1, 1, 8, 8), numpy.uint8))
        with pytest.raises(InferenceServerException, match="wait already"):
            client.infer("birds", [given], timeout=1_000_000, headers=headers)
        busy.may_go_on.set()
        assert computed.result().status_code == 200
        assert waiting.result().json()["outputs"][0]["shape"] == [2, len(CLASSES)]


def test_a_request_is_given_up_after_the_servers_time(service: Service, busy: Busy) -> None:
    service.register()
    with started(service.settings.model_copy(update={"inference_seconds": 0.2, "inference_threads": 1})) as (url, _):
        headers = {"Authorization": f"Bearer {service.key_of('app')}"}
        body = {**infer_request(1), "parameters": {"timeout": 60_000_000}}
        answer = HTTP.post(f"{url}/v2/models/birds/infer", json=body, headers=headers)
        busy.may_go_on.set()
        assert (answer.status_code, "0.2 seconds" in answer.json()["detail"]) == (504, True)


def test_many_who_ask_for_one_part_wait_for_one_that_opens_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    service.register()
    engine = engine_of(service)
    opened = 0
    read = type(Work(service.settings).vault).read

    def counted(*arguments: object) -> bytes:
        nonlocal opened
        opened += 1
        time.sleep(0.1)
        return read(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(type(Work(service.settings).vault), "read", counted)

    async def all_at_once() -> list[tuple[View, Tensor]]:
        images = torch.randn(1, 1, 8, 8)
        return list(await asyncio.gather(*(engine.answer("birds", Asked(), lambda _: images) for _ in range(20))))

    assert len(asyncio.run(all_at_once())) == 20
    assert opened == 2  # the upper part and the lower one
    engine.close()


def test_images_that_are_computed_one_by_one_answer_alike_to_the_last_bit(service: Service) -> None:
    service.register()
    service.custodian.withdraw([service.deposit(["auk"])], holder="h", reason="r")
    engine = engine_of(service, BatchLimits(images=1))
    images = torch.randn(5, 1, 8, 8)
    together, *alone = questions(engine, [Asked()] * 6, [images, *images.split(1)])
    for question in (together, *alone):
        engine._batches.ask(question)
    found = [question.answer.result(60) for question in alone]
    answer = together.answer.result(60)
    assert answer is not None
    assert torch.equal(answer, torch.cat([logits for logits in found if logits is not None]))
    engine.close()
