"""Open Inference Protocol v2, through its public client and by hand."""

import asyncio
import base64
import io
import json
from typing import Any

import httpx
import numpy
import pytest
import torch
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from PIL import Image
from tritonclient.utils import InferenceServerException

from app.access.service import Role
from lirf_client import LirfError
from tests.app.conftest import HTTP, Service, begins_with, on_one_database
from tests.app.factories import CLASSES, infer_request, png
from tests.lirf_core.factories import PREPROCESSING

pytestmark = on_one_database

HEAD_BYTES = "Inference-Header-Content-Length"


def host(service: Service) -> str:
    return service.url.removeprefix("http://")


def bearer(service: Service, *roles: Role) -> dict[str, str]:
    return {"Authorization": f"Bearer {service.key_of('app', *roles)}"}


def pixels(batch: int) -> numpy.ndarray[Any, Any]:
    request = infer_request(batch)
    return numpy.array(request["inputs"][0]["data"], numpy.uint8).reshape(batch, 1, 8, 8)  # type: ignore[index]


def logits_of(service: Service, batch: int) -> numpy.ndarray[Any, Any]:
    """The logits, asked for as JSON."""
    [logits] = service.reader.infer("birds", {**infer_request(batch), "outputs": [{"name": "logits"}]})["outputs"]
    return numpy.array(logits["data"], numpy.float32).reshape(logits["shape"])


def input_of(values: numpy.ndarray[Any, Any], datatype: str, *, is_raw: bool = True) -> triton.InferInput:
    tensor = triton.InferInput("input", list(values.shape), datatype)
    tensor.set_data_from_numpy(values, binary_data=is_raw)
    return tensor


@begins_with("auk")
def test_the_public_client_finds_server_and_model(service: Service) -> None:
    service.operator.register_model(
        "empty",
        architecture={"name": "resnet18-small", "width": 0.25},
        classes=CLASSES,
        preprocessing={"height": 8, "width": 8, "mean": [0.5], "std": [0.5]},
    )
    headers = bearer(service)
    with triton.InferenceServerClient(host(service)) as client:
        assert client.is_server_live(headers)
        assert client.is_server_ready(headers)
        assert client.get_server_metadata(headers)["extensions"] == [
            "binary_tensor_data",
            "classification",
        ]
        assert client.is_model_ready("birds", headers=headers)
        assert client.is_model_ready("birds", "1", headers)
        assert not client.is_model_ready("birds", "0", headers)
        assert not client.is_model_ready("empty", headers=headers)
        assert client.get_model_metadata("birds", "1", headers)["versions"] == ["1"]
        with pytest.raises(InferenceServerException, match=r"answers only with revision 1\."):
            client.get_model_metadata("birds", "0", headers)
        index = client.get_model_repository_index(headers)
        assert [(entry["name"], entry["version"], entry["state"]) for entry in index] == [
            ("birds", "1", "READY"),
            ("empty", "", "UNAVAILABLE"),
        ]
        with pytest.raises(InferenceServerException, match="Send a valid API key"):
            client.get_server_metadata()
    ready = HTTP.post(f"{service.url}/v2/repository/index", json={"ready": True}, headers=headers).json()
    assert [entry["name"] for entry in ready] == ["birds"]


@pytest.mark.parametrize("is_raw", [True, False])
@begins_with()
def test_the_public_client_gets_the_same_answer_as_json(service: Service, is_raw: bool) -> None:
    expected, images = logits_of(service, 3), pixels(3)
    normalised = PREPROCESSING.normalise(torch.from_numpy(images)).numpy()
    outputs = [
        triton.InferRequestedOutput("logits", binary_data=is_raw),
        triton.InferRequestedOutput("class", binary_data=not is_raw),
    ]
    with triton.InferenceServerClient(host(service)) as client:
        for tensor in (
            input_of(images, "UINT8", is_raw=is_raw),
            input_of(images.transpose(0, 2, 3, 1).copy(), "UINT8", is_raw=is_raw),
            input_of(normalised, "FP32", is_raw=is_raw),
        ):
            answer = client.infer("birds", [tensor], outputs=outputs, request_id="mine", headers=bearer(service))
            assert numpy.allclose(answer.as_numpy("logits"), expected, atol=1e-4)
            names = [name.decode() if isinstance(name, bytes) else name for name in answer.as_numpy("class")]
            assert names == [CLASSES[index] for index in expected.argmax(1)]
            response = answer.get_response()
            assert (response["id"], response["model_version"]) == ("mine", "0")
            assert response["parameters"] == {"revision": 0, "withdrawals": []}


@begins_with()
def test_unnamed_outputs_come_raw_if_the_client_wants_it(service: Service) -> None:
    with triton.InferenceServerClient(host(service)) as client:
        answer = client.infer("birds", [input_of(pixels(2), "UINT8")], model_version="0", headers=bearer(service))
        assert numpy.allclose(answer.as_numpy("logits"), logits_of(service, 2), atol=1e-5)
        assert answer.as_numpy("probabilities").sum(1) == pytest.approx(1, abs=1e-5)
        assert answer.as_numpy("class").shape == (2,)
        with pytest.raises(InferenceServerException, match=r"answers only with revision 0\."):
            client.infer("birds", [input_of(pixels(1), "UINT8")], model_version="3", headers=bearer(service))


@begins_with()
def test_the_public_client_asks_many_at_once(service: Service) -> None:
    expected = logits_of(service, 4)
    headers = bearer(service)

    async def ask() -> list[numpy.ndarray[Any, Any]]:
        async with triton_aio.InferenceServerClient(host(service)) as client:
            answers = [
                client.infer("birds", [input_of(pixels(4)[i : i + 1], "UINT8")], headers=headers)
                for i in range(4)
                for _ in range(8)
            ]
            return [answer.as_numpy("logits")[0] for answer in await asyncio.gather(*answers)]

    logits = asyncio.run(ask())
    assert all(numpy.allclose(logits[i], expected[i // 8], atol=1e-4) for i in range(32))


@begins_with("auk")
def test_classification_lists_the_likeliest_classes_that_answer(service: Service) -> None:
    with triton.InferenceServerClient(host(service)) as client:
        outputs = [triton.InferRequestedOutput("probabilities", class_count=2)]
        answer = client.infer("birds", [input_of(pixels(3), "UINT8")], outputs=outputs, headers=bearer(service))
        likeliest = answer.as_numpy("probabilities")
        assert likeliest.shape == (3, 2)
        outputs = [triton.InferRequestedOutput("probabilities", class_count=50, binary_data=False)]
        answer = client.infer("birds", [input_of(pixels(1), "UINT8")], outputs=outputs, headers=bearer(service))
        all_classes = [text.split(":") for text in answer.as_numpy("probabilities")[0]]
    values = [float(value) for value, _, _ in all_classes]
    assert values == sorted(values, reverse=True)
    assert {name for _, _, name in all_classes} == set(CLASSES) - {"auk"}
    assert all(CLASSES[int(index)] == name for _, index, name in all_classes)
    first = likeliest[0][0].decode().split(":")
    assert float(first[0]) == pytest.approx(float(all_classes[0][0]), abs=1e-4)


@begins_with()
def test_image_files_come_raw_or_as_base64(service: Service) -> None:
    files = [png(number, size=40) for number in range(3)]
    raw = input_of(numpy.array(files, dtype=numpy.object_), "BYTES")
    with triton.InferenceServerClient(host(service)) as client:
        probabilities = client.infer("birds", [raw], headers=bearer(service)).as_numpy("probabilities")
    encoded = {"name": "input", "shape": [3], "datatype": "BYTES"}
    encoded |= {"data": [base64.b64encode(file).decode() for file in files]}  # type: ignore[dict-item]
    [answer] = service.reader.infer("birds", {"inputs": [encoded], "outputs": [{"name": "probabilities"}]})["outputs"]
    assert numpy.allclose(probabilities.flatten(), answer["data"], atol=1e-6)


@begins_with()
def test_pixels_of_another_size_are_answered_like_their_file(service: Service) -> None:
    shades = numpy.linspace(0, 255, 24 * 16, dtype=numpy.uint8).reshape(24, 16)
    file = io.BytesIO()
    Image.fromarray(shades).save(file, "PNG")
    headers = bearer(service)
    with triton.InferenceServerClient(host(service)) as client:
        of_file = client.infer(
            "birds", [input_of(numpy.array([file.getvalue()], numpy.object_), "BYTES")], headers=headers
        )
        of_pixels = client.infer("birds", [input_of(shades[None, None], "UINT8")], headers=headers)
    assert numpy.allclose(of_file.as_numpy("probabilities"), of_pixels.as_numpy("probabilities"), atol=0.02)


def framed(service: Service, request: dict[str, Any], raw: bytes, **headers: str) -> httpx.Response:
    head = json.dumps(request).encode()
    all_headers = {**bearer(service), HEAD_BYTES: str(len(head)), **headers}
    return HTTP.post(f"{service.url}/v2/models/birds/infer", content=head + raw, headers=all_headers)


def raw_input(size: int | None, datatype: str = "UINT8", shape: list[int] | None = None) -> dict[str, Any]:
    parameters = {} if size is None else {"binary_data_size": size}
    return {
        "inputs": [{"name": "input", "shape": shape or [1, 1, 8, 8], "datatype": datatype, "parameters": parameters}]
    }


@pytest.mark.parametrize(
    ("request_head", "raw", "headers", "status", "message"),
    [
        (raw_input(64), b"x" * 63, {}, 400, "needs 64 raw bytes, but only 63 are left"),
        (raw_input(64), b"x" * 65, {}, 400, "1 raw bytes belong to no input"),
        (raw_input(None), b"", {}, 400, "needs `data` or `parameters.binary_data_size`, and not both."),
        (raw_input(64), b"x" * 64, {HEAD_BYTES: "100000"}, 400, "must be a number of bytes, at most the"),
        (raw_input(64), b"x" * 64, {HEAD_BYTES: "-1"}, 400, "must be a number of bytes, at most the"),
        (raw_input(64), b"x" * 64, {HEAD_BYTES: "9" * 5000}, 400, "must be a number of bytes, at most the"),
        (raw_input(64), b"x" * 64, {HEAD_BYTES: "9"}, 422, "body"),
        (raw_input(64), b"x" * 64, {"Content-Encoding": "br"}, 415, "The Content-Encoding is 'br'"),
        (raw_input(-1), b"", {}, 422, "binary_data_size"),
        (raw_input(63), b"x" * 63, {}, 422, "Shape [1, 1, 8, 8] of UINT8 needs 64"),
        (raw_input(64, "FP32"), b"x" * 64, {}, 422, "Shape [1, 1, 8, 8] of FP32 needs 256"),
        (raw_input(256, "FP32"), b"\xff" * 256, {}, 422, "finite"),
        (raw_input(64, "UINT8", [1, 1, 0, 64]), b"x" * 64, {}, 422, "The shape of UINT8 must be"),
        (raw_input(64, "UINT8", [1, 1, 2**40, 2**40]), b"x" * 64, {}, 422, "with sides of 1 to 8192 pixels"),
        (raw_input(8, "BYTES", [1]), b"\x05\0\0\0abcd", {}, 422, "An element of BYTES has 5 bytes, but only 4"),
        (raw_input(2, "BYTES", [1]), b"\x05\0", {}, 422, "within the length"),
        (
            raw_input(8, "BYTES", [1]),
            b"\x04\0\0\0abcd",
            {},
            422,
            "File 1 of 1 in BYTES cannot be used. This is a text file. Only PNG and JPEG",
        ),
        (raw_input(8, "BYTES", [2]), b"\x04\0\0\0abcd", {}, 422, "The request has 1 files. Shape [2] needs 2."),
        (raw_input(8, "BYTES", [1, 2]), b"\x04\0\0\0abcd", {}, 422, "one file per element"),
    ],
)
@begins_with()
def test_wrong_framing_is_a_problem_in_the_protocols_form(
    service: Service, request_head: dict[str, Any], raw: bytes, headers: dict[str, str], status: int, message: str
) -> None:
    answer = framed(service, request_head, raw, **headers)
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text


@begins_with()
def test_a_request_without_a_content_type_is_json(service: Service) -> None:
    answer = HTTP.post(
        f"{service.url}/v2/models/birds/infer", content=json.dumps(infer_request(1)), headers=bearer(service)
    )
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"


@begins_with("auk", "emu")
def test_views_list_what_a_caller_may_use_and_only_administrators_see_the_bare_target(service: Service) -> None:
    withdrawn, restored = service.deposits
    withdrawal = service.custodian.withdraw([withdrawn], holder="h", reason="r")
    service.custodian.restore(restored, reason="r")

    def views(*roles: Role) -> list[dict[str, Any]]:
        answer = HTTP.get(f"{service.url}/v1/models/birds/views", headers=bearer(service, *roles))
        views: list[dict[str, Any]] = answer.json()["views"]
        return views

    served = {"name": "served", "revision": 2, "withdrawals": [withdrawal["id"]], "classes": CLASSES}
    target = {
        "name": "target",
        "revision": 2,
        "withdrawals": [],
        "classes": [n for n in CLASSES if n not in ("auk", "emu")],
    }
    assert views(Role.AUDITOR) == [served]
    assert views(Role.ADMINISTRATOR) == [served, target]

    bare = {**infer_request(1), "parameters": {"view": "target"}}
    with pytest.raises(LirfError, match="administrator"):
        service.auditor.infer("birds", bare)
    answer = service.administrator.infer("birds", bare)
    probabilities = next(output["data"] for output in answer["outputs"] if output["name"] == "probabilities")
    assert [name for name, value in zip(CLASSES, probabilities, strict=True) if value > 0] == target["classes"]
    assert answer["parameters"]["withdrawals"] == []
