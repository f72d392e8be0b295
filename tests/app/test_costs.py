"""What requests may cost: bounds, compressed bodies, optional fields, health."""

import gzip
import json
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy
import pytest
import safetensors.torch
import sqlalchemy as sa
import torch
import tritonclient.http as triton
from sqlalchemy.orm import Session

from app.api import health
from app.main import THREADS_OF_ROUTES
from app.registry import service as registry
from lirf_client import LirfError
from lirf_core.network import flat_state
from tests.app.conftest import HTTP, Service, begins_with, on_one_database
from tests.app.factories import CLASSES, deposit_zip, infer_request, png
from tests.e2e.processes import wait_until
from tests.lirf_core.factories import network

pytestmark = on_one_database
SLUG = "urn:lirf:problem:"


def post(service: Service, path: str, content: bytes, **headers: str) -> httpx.Response:
    bearer = {"Authorization": f"Bearer {service.administrator._http.headers['Authorization'].split()[1]}"}
    return HTTP.post(service.url + path, content=content, headers={**bearer, **headers})


def infer(service: Service, content: bytes, **headers: str) -> httpx.Response:
    return post(service, "/v2/models/birds/infer", content, **headers)


def floats(values: numpy.ndarray[Any, Any]) -> dict[str, Any]:
    return {"name": "input", "shape": list(values.shape), "datatype": "FP32", "data": values.flatten().tolist()}


# Logits that are no numbers.


def register(service: Service, name: str, factor: float, tmp_path: Path, layers: int = 1) -> None:
    """A model whose first layers have these times as large weights."""
    state = flat_state(network())
    first = [name for name, value in state.items() if value.dim() == 4][:layers]
    state |= {name: state[name] * factor for name in first}
    safetensors.torch.save_file(state, tmp_path / "weights.safetensors")
    service.describe(name)
    service.operator.put_weights(name, tmp_path / "weights.safetensors")


def test_inputs_that_overflow_get_a_problem_and_others_are_answered(service: Service, tmp_path: Path) -> None:
    register(service, "loud", 1e4, tmp_path)
    extreme = numpy.full((1, 1, 8, 8), 3e38, numpy.float32)
    mixed = numpy.concatenate([numpy.zeros((1, 1, 8, 8), numpy.float32), extreme])
    for values in (extreme, mixed):
        with pytest.raises(LirfError, match="FP32 must be normalised") as caught:
            service.reader.infer("loud", {"inputs": [floats(values)]})
        assert (caught.value.status, caught.value.type) == (422, SLUG + "extreme-input")
    assert service.reader.infer("loud", {"inputs": [floats(extreme * 1e-38)]})["outputs"][2]["data"][0] in CLASSES


def test_weights_that_overflow_get_a_problem(service: Service, tmp_path: Path) -> None:
    register(service, "huge", 1e38, tmp_path, layers=9)
    image = tmp_path / "bird.png"
    image.write_bytes(png(1, size=8))
    for ask in (lambda: service.reader.infer("huge", infer_request(1)), lambda: service.reader.predict("huge", image)):
        with pytest.raises(LirfError, match="not finite") as caught:
            ask()
        assert (caught.value.status, caught.value.type) == (500, SLUG + "invalid-logits")


# Optional fields and forms that clients leave out.


@begins_with()
def test_null_for_an_optional_field_is_as_if_it_was_left_out(service: Service) -> None:
    [tensor] = infer_request(1)["inputs"]  # type: ignore[misc]
    plain = service.reader.infer("birds", {"inputs": [tensor]})
    nulls = {
        "id": None,
        "inputs": [{**tensor, "parameters": None}],
        "outputs": None,
        "parameters": None,
    }
    assert service.reader.infer("birds", nulls)["outputs"] == plain["outputs"]
    parameters = dict.fromkeys(("raw", "binary_data_output", "timeout", "view", "withdrawal"))
    outputs = [{"name": name, "parameters": None} for name in ("logits", "probabilities")]
    outputs += [{"name": "class", "parameters": {"binary_data": None, "classification": None}}]
    nulls = {
        "inputs": [{**tensor, "parameters": {"binary_data_size": None}}],
        "parameters": parameters,
        "outputs": outputs,
    }
    assert service.reader.infer("birds", nulls)["outputs"] == plain["outputs"]
    assert post(service, "/v2/repository/index", b'{"ready": null}').status_code == 200


@begins_with()
def test_json_without_a_content_type_is_read(service: Service) -> None:
    body = {"name": "prometheus", "roles": []}
    answer = post(service, "/v1/keys", json.dumps(body).encode())
    assert (answer.status_code, answer.json()["name"]) == (201, "prometheus")


@begins_with()
def test_an_image_comes_with_and_without_a_form_and_a_file_name(service: Service) -> None:
    image, path = png(3, size=40), "/v1/models/birds/predict"
    named = HTTP.post(
        service.url + path, files={"image": ("a.png", image)}, headers=dict(service.reader._http.headers.items())
    )
    expected = named.json()["predictions"]
    part = b'--x\r\nContent-Disposition: form-data; name="image"\r\n\r\n' + image + b"\r\n--x--\r\n"
    assert (
        post(service, path, part, **{"Content-Type": "multipart/form-data; boundary=x"}).json()["predictions"]
        == expected
    )
    for kind in ("image/png", "application/x-www-form-urlencoded", "application/octet-stream"):
        assert post(service, path, image, **{"Content-Type": kind}).json()["predictions"] == expected
    assert post(service, path, image).json()["predictions"] == expected
    assert post(service, path, png(3, size=300)).status_code == 200  # were it JSON, a thread would parse it
    missing = post(
        service, path, part.replace(b"image", b"photo"), **{"Content-Type": "multipart/form-data; boundary=x"}
    )
    assert (missing.status_code, missing.json()["errors"][0]["at"]) == (422, "body.image")


def test_health_answers_head(service: Service) -> None:
    for path in ("live", "ready"):
        answer = HTTP.head(f"{service.url}/v2/health/{path}")
        assert (answer.status_code, answer.content) == (200, b"")


@begins_with()
def test_health_waits_for_no_thread_and_no_key(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    """It answers while every thread of routes, and the database, are taken."""
    monkeypatch.setattr(health, "STALE_SECONDS", 600.0)
    headers = dict(service.reader._http.headers.items())
    with ThreadPoolExecutor(THREADS_OF_ROUTES) as pool, service.database.session() as session, session.begin():
        registry.lock(session, registry.get(session, "birds").id)  # SQLite: nobody else writes
        key = {"Authorization": service.administrator._http.headers["Authorization"]}
        bodies = [{"name": f"key {number}", "roles": []} for number in range(THREADS_OF_ROUTES)]
        waiting = [pool.submit(HTTP.post, f"{service.url}/v1/keys", json=body, headers=key) for body in bodies]
        time.sleep(1)
        for path in ("live", "ready"):
            assert HTTP.get(f"{service.url}/v2/health/{path}", timeout=5).status_code == 200
        assert not any(request.done() for request in waiting)
    assert {request.result().status_code for request in waiting} == {201}
    assert HTTP.get(f"{service.url}/v1/models", headers=headers).status_code == 200


def test_the_service_is_not_ready_when_its_database_is_away_or_silent(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise sa.exc.OperationalError("SELECT 1", None, Exception("away"))

    def ready() -> tuple[int, str | None]:
        answer = HTTP.get(f"{service.url}/v2/health/ready")
        return answer.status_code, answer.json().get("type")

    not_ready = (503, f"{SLUG}not-ready")
    assert ready() == (200, None)
    with monkeypatch.context() as patch:
        patch.setattr(Session, "execute", fail)
        wait_until(lambda: ready() == not_ready, 10)
    wait_until(lambda: ready() == (200, None), 10)
    with monkeypatch.context() as patch:
        patch.setattr(health, "STALE_SECONDS", 0.0)  # the last answer came too long ago
        assert ready() == not_ready


@pytest.mark.parametrize(
    ("data", "limit"),
    [(b"[]," * 70_000 + b"1", "65,536 lists"), (b'{"a":1},' * 11_000 + b"1", "10,000 members")],
    ids=["lists", "members"],
)
@begins_with()
def test_lists_and_members_of_a_tensor_have_a_bound(service: Service, data: bytes, limit: str) -> None:
    head = b'{"inputs": [{"name": "input", "shape": [1, 1, 8, 8], "datatype": "UINT8", "data": [%s]}]}'
    answer = infer(service, head % data)
    assert (answer.status_code, answer.json()["type"]) == (413, f"{SLUG}too-many-values")
    assert f"more than {limit}" in answer.json()["detail"]


def test_only_extensions_that_exist_are_advertised(service: Service) -> None:
    answer = HTTP.get(f"{service.url}/v2", headers=dict(service.reader._http.headers.items()))
    assert answer.json()["extensions"] == ["binary_tensor_data", "classification"]


# Compressed bodies.


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
@begins_with()
def test_the_public_client_compresses_requests_and_answers(service: Service, algorithm: str) -> None:
    pixels = numpy.zeros((4000, 1, 8, 8), numpy.uint8)
    tensor = triton.InferInput("input", list(pixels.shape), "UINT8")
    tensor.set_data_from_numpy(pixels)
    key = service.reader._http.headers["Authorization"]
    with triton.InferenceServerClient(service.url.removeprefix("http://")) as client:
        plain = client.infer("birds", [tensor], headers={"Authorization": key}).as_numpy("logits")
        packed = client.infer(
            "birds",
            [tensor],
            headers={"Authorization": key},
            request_compression_algorithm=algorithm,
            response_compression_algorithm=algorithm,
        ).as_numpy("logits")
    assert numpy.array_equal(plain, packed)


@begins_with()
def test_uploads_may_be_compressed(service: Service) -> None:
    content = gzip.compress(deposit_zip(["auk"]))
    headers = {"Content-Encoding": "gzip", "Content-Type": "application/zip"}
    answer = post(service, "/v1/models/birds/datasets?purpose=deposit", content, **headers)
    assert (answer.status_code, answer.json()["counts"]) == (201, {"auk": 4})


@begins_with()
def test_a_large_answer_is_compressed_only_if_the_client_accepts_it(service: Service) -> None:
    raw = bytes(2000 * 64)
    tensor = {"name": "input", "shape": [2000, 1, 8, 8], "datatype": "UINT8"}
    head = json.dumps({"inputs": [{**tensor, "parameters": {"binary_data_size": len(raw)}}]}).encode()
    for accepted, coding in {"gzip, deflate, br": "gzip", "deflate": "deflate", "gzip;q=0, br": None, "": None}.items():
        headers = {"Inference-Header-Content-Length": str(len(head)), "Accept-Encoding": accepted}
        answer = infer(service, head + raw, **headers)
        assert answer.headers.get("content-encoding") == coding
        assert answer.json()["outputs"][0]["shape"] == [2000, 5]


@pytest.mark.parametrize(
    ("content", "coding", "status", "slug"),
    [
        (gzip.compress(bytes(40 << 20)), "gzip", 413, "request-entity-too-large"),
        (gzip.compress(gzip.compress(bytes(400 << 20))), "gzip", 422, "invalid-request"),
        (gzip.compress(b"{}")[:-4], "gzip", 400, "damaged-encoding"),
        (b"no gzip", "gzip", 400, "damaged-encoding"),
        (zlib.compress(b"{}") + b"more", "deflate", 400, "damaged-encoding"),
        (b"{}", "br", 415, "unknown-encoding"),
        (gzip.compress(b"{}"), "gzip, gzip", 415, "unknown-encoding"),
    ],
    ids=["bomb", "nested", "cut", "plain", "trailing", "unknown", "twice"],
)
@begins_with()
def test_a_compressed_body_has_bounds(service: Service, content: bytes, coding: str, status: int, slug: str) -> None:
    for path in ("/v2/models/birds/infer", "/v1/keys"):
        answer = post(service, path, content, **{"Content-Encoding": coding, "Content-Type": "application/json"})
        assert (answer.status_code, answer.json()["type"]) == (status, SLUG + slug)


@begins_with()
def test_bare_deflate_and_several_members_are_read(service: Service) -> None:
    body = json.dumps(infer_request(1)).encode()
    bare = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    for coding, content in {
        "deflate": bare.compress(body) + bare.flush(),
        "gzip": gzip.compress(body[:50]) + gzip.compress(body[50:]),
        "X-GZIP": gzip.compress(body),
        "identity": body,
    }.items():
        assert infer(service, content, **{"Content-Encoding": coding}).status_code == 200


# Bounds.


def json_request(data: bytes, shape: str = "[1, 1, 8, 8]") -> bytes:
    return b'{"inputs": [{"name": "input", "shape": %s, "datatype": "FP32", "data": %s}]}' % (shape.encode(), data)


@pytest.mark.parametrize(
    ("path", "body", "status", "slug"),
    [
        ("/v2/models/birds/infer", json_request(b"[" + b"[]," * 1_000_000 + b"[]]"), 413, "too-many-values"),
        ("/v2/models/birds/infer", json_request(b"[" + b"1," * 600_000 + b"1]"), 413, "too-many-values"),
        ("/v2/models/birds/infer", json_request(b"[" * 60_000 + b"]" * 60_000), 422, "invalid-request"),
        ("/v2/models/birds/infer", json_request(b"[1]", "[" + "true," * 10_000 + "true]"), 422, "invalid-request"),
        ("/v1/keys", b"{" + b",".join(b'"a%d":1' % i for i in range(100_000)) + b"}", 413, "too-many-values"),
        ("/v1/keys", b"{" + b",".join(b'"a%d":1' % i for i in range(2_000)) + b"}", 422, "invalid-request"),
        ("/v1/keys", b'{"%s": 1}' % (b"a" * 1_000_000), 422, "invalid-request"),
        ("/v1/keys", b"[" * 60_000 + b"]" * 60_000, 422, "invalid-request"),
        ("/v1/keys", b"[" * 20_000, 400, "bad-request"),
        ("/v1/keys", b'{"a": ' + b"1" * 1_000_000 + b"}", 422, "invalid-request"),
        ("/v1/models", b'{"classes": [%s1]}' % (b"1," * 100_000), 422, "invalid-request"),
    ],
)
@begins_with()
def test_json_with_too_much_in_it_gets_a_short_answer(
    service: Service, path: str, body: bytes, status: int, slug: str
) -> None:
    answer = post(service, path, body, **{"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["type"]) == (status, SLUG + slug), answer.text[:500]
    assert len(answer.content) < 16_000


@begins_with()
def test_a_request_is_computed_in_pieces_and_answered_as_if_in_one(service: Service) -> None:
    pixels = torch.arange(0, 40 * 64).remainder(256).to(torch.uint8).view(40, 1, 8, 8)

    def ask(images: torch.Tensor) -> list[float]:
        tensor = {"name": "input", "shape": list(images.shape), "datatype": "UINT8", "data": images.flatten().tolist()}
        outputs = service.reader.infer("birds", {"inputs": [tensor], "outputs": [{"name": "logits"}]})["outputs"]
        logits: list[float] = outputs[0]["data"]
        return logits

    one_by_one = [value for number in range(40) for value in ask(pixels[number : number + 1])]
    assert ask(pixels) == pytest.approx(one_by_one, abs=1e-4)


@begins_with()
def test_event_streams_of_a_key_have_a_bound(service: Service) -> None:
    deposit_id = service.queue(["auk"])
    headers, url = dict(service.reader._http.headers.items()), f"{service.url}/v1/deposits/{deposit_id}/events"
    with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=None)) as client:
        streams = []
        for _ in range(service.settings.event_streams_of_key):
            stream = client.send(client.build_request("GET", url, headers=headers), stream=True)
            assert stream.status_code == 200
            streams.append(stream)
        refused = client.get(url, headers=headers)
        assert (refused.status_code, refused.json()["type"]) == (429, SLUG + "too-many-streams")
        assert refused.headers["Retry-After"] == "5"
        other = client.send(
            client.build_request("GET", url, headers=dict(service.auditor._http.headers.items())), stream=True
        )
        assert other.status_code == 200
        for stream in (*streams, other):
            stream.close()
