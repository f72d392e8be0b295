import asyncio
import io
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from PIL import Image

from lirf_client import LirfError
from tests.app.conftest import HTTP, Service, begins_with, on_one_database
from tests.app.factories import CLASSES, infer_request, png
from tests.lirf_core.factories import PREPROCESSING, SPEC, network
from tests.lirf_core.images import pictures
from tests.lirf_core.images.pictures import chunk, encoded, exif

pytestmark = on_one_database


@begins_with()
def test_answers_are_those_of_the_network(service: Service) -> None:
    request = infer_request(3)
    answer = service.reader.infer("birds", {**request, "id": "mine"})
    pixels = torch.tensor(request["inputs"][0]["data"], dtype=torch.uint8).view(3, 1, 8, 8)  # type: ignore[index]
    expected = network()(PREPROCESSING.normalise(pixels))
    outputs = {output["name"]: output for output in answer["outputs"]}
    assert (answer["model_name"], answer["model_version"], answer["id"]) == ("birds", "0", "mine")
    assert outputs["logits"]["shape"] == [3, 5]
    assert outputs["logits"]["data"] == pytest.approx(expected.flatten().tolist(), abs=1e-4)
    assert outputs["probabilities"]["data"] == pytest.approx(expected.softmax(1).flatten().tolist(), abs=1e-5)
    assert outputs["class"]["data"] == [CLASSES[i] for i in expected.argmax(1)]


@begins_with()
def test_normalised_floats_and_nested_data_answer_the_same(service: Service) -> None:
    request = infer_request(2)
    pixels = numpy.array(request["inputs"][0]["data"]).reshape(2, 1, 8, 8)  # type: ignore[index]
    floats = {"name": "input", "shape": [2, 1, 8, 8], "datatype": "FP32", "data": ((pixels / 255 - 0.5) / 0.5).tolist()}
    bytes_answer = service.reader.infer("birds", request)["outputs"][0]["data"]
    float_answer = service.reader.infer("birds", {"inputs": [floats], "outputs": [{"name": "logits"}]})["outputs"]
    assert [output["name"] for output in float_answer] == ["logits"]
    assert float_answer[0]["data"] == pytest.approx(bytes_answer, abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": [2, 1, 8, 9]}, "`data` has 128 numbers. Shape [2, 1, 8, 9] needs 144."),
        ({"shape": [2, 3, 8, 9]}, "The shape is [2, 3, 8, 9]. The shape of UINT8 must be [batch, 1, height, width] or"),
        (
            {"shape": [1, 1, 16, 8], "datatype": "FP32"},
            "The shape is [1, 1, 16, 8]. The shape of FP32 must be [batch, 1, 8, 8].",
        ),
        ({"shape": [0, 1, 8, 8], "data": []}, "batch of 1 to"),
        ({"shape": [10**9, 1, 8, 8]}, "batch of 1 to"),
        ({"shape": [3, 1, 8, 8]}, "`data` has 128 numbers. Shape [3, 1, 8, 8] needs 192."),
        ({"datatype": "INT64"}, "The model takes FP32 (normalised), UINT8 (pixels, 0 to 255) or BYTES"),
        ({"data": ["a"] * 128}, "not a number"),
        ({"data": [[1, 2], [3]]}, "not a number, or its nesting is uneven"),
        ({"data": [256] * 128}, "whole numbers from 0 to 255"),
        ({"data": [0.5] * 128}, "whole numbers from 0 to 255"),
        ({"data": [None] * 128}, "whole numbers from 0 to 255"),
        ({"datatype": "FP32", "data": [1e39] * 128}, "finite"),
        ({"name": "other"}, "Send one input named 'input'. The inputs of this request are ['other']."),
    ],
)
@begins_with()
def test_a_tensor_that_does_not_fit_is_a_problem(service: Service, change: dict[str, Any], message: str) -> None:
    request = infer_request(2)
    with pytest.raises(LirfError) as caught:
        service.reader.infer("birds", {"inputs": [{**request["inputs"][0], **change}]})  # type: ignore[index]
    assert (caught.value.status, caught.value.type) == (422, "urn:lirf:problem:invalid-tensor")
    assert message in caught.value.detail
    assert caught.value.members["error"] == caught.value.detail  # where clients of the protocol look


@begins_with()
def test_an_unknown_output_is_a_problem(service: Service) -> None:
    with pytest.raises(
        LirfError, match=r"There is no output 'labels'\. The outputs are logits, probabilities, class\."
    ):
        service.reader.infer("birds", {**infer_request(), "outputs": [{"name": "labels"}]})


@begins_with("auk dodo")
def test_deposited_classes_have_the_lowest_logit_whoever_asks(service: Service) -> None:
    answer = {o["name"]: o["data"] for o in service.reader.infer("birds", infer_request(1))["outputs"]}
    lowest = float(numpy.finfo(numpy.float32).min)
    assert answer["logits"][:2] == [lowest, lowest]
    assert answer["probabilities"][:2] == [0.0, 0.0]
    assert answer["class"][0] not in ("auk", "dodo")
    with pytest.raises(LirfError, match="Missing role 'auditor'") as caught:
        service.operator.infer("birds", infer_request(1, raw=True))
    assert caught.value.status == 403
    raw = service.auditor.infer("birds", infer_request(1, raw=True))["outputs"]
    assert {output["name"]: output["data"] for output in raw} == answer


@begins_with("auk")
def test_predict_classifies_one_image(service: Service, tmp_path: Path) -> None:
    image = tmp_path / "bird.png"
    image.write_bytes(png(3, size=40))
    answer = service.reader.predict("birds", image, top=10)
    assert (answer["model"], answer["revision"], answer["withdrawals"]) == ("birds", 1, [])
    assert {item["class"] for item in answer["predictions"]} == {"dodo", "emu", "heron", "kiwi"}
    assert sum(item["probability"] for item in answer["predictions"]) == pytest.approx(1, abs=1e-4)
    probabilities = [item["probability"] for item in answer["predictions"]]
    assert probabilities == sorted(probabilities, reverse=True)


@begins_with()
def test_a_picture_that_exif_turns_is_answered_like_the_upright_one(service: Service, tmp_path: Path) -> None:
    upright = Image.open(io.BytesIO(png(3)))
    stored = encoded(upright.rotate(90), "PNG")  # as a camera on its side stores it; 6 says how to turn it back
    turned = stored[:33] + chunk(b"eXIf", exif(6)) + stored[33:]
    preprocessing = {"height": 8, "width": 8, "mean": [0.5], "std": [0.5], "exif_orientation": "ignore"}
    architecture = {"name": SPEC.name, "width": SPEC.width}
    service.operator.register_model("raw", architecture=architecture, classes=CLASSES, preprocessing=preprocessing)
    service.operator.put_weights("raw", service.weights())
    assert service.reader.model("raw")["preprocessing"] == preprocessing
    assert service.reader.model("birds")["preprocessing"]["exif_orientation"] == "apply"

    def predictions(model: str, content: bytes) -> list[dict[str, Any]]:
        (tmp_path / "picture").write_bytes(content)
        return service.reader.predict(model, tmp_path / "picture")["predictions"]

    assert predictions("birds", turned) == predictions("birds", png(3)) != predictions("birds", stored)
    assert predictions("raw", turned) == predictions("birds", stored)


@pytest.mark.attack
@begins_with()
def test_pictures_of_strangers_are_answered_or_refused_by_their_fault(service: Service, tmp_path: Path) -> None:
    image = tmp_path / "picture"
    for name, content in (pictures.WELL_FORMED | pictures.GREY).items():
        image.write_bytes(content)
        assert len(service.reader.predict("birds", image)["predictions"]) == 5, name
    for content, message in pictures.REFUSED.values():
        image.write_bytes(content)
        with pytest.raises(LirfError, match=message) as caught:
            service.reader.predict("birds", image)
        assert (caught.value.status, caught.value.type) == (422, "urn:lirf:problem:unreadable-image")


@begins_with()
def test_a_file_that_is_not_an_image_is_a_problem(service: Service, tmp_path: Path) -> None:
    gif = io.BytesIO()
    Image.new("P", (8, 8)).save(gif, "GIF")
    for content, name in ((b"hello", "a text file"), (gif.getvalue(), "a GIF image"), (b"", "an empty file")):
        (tmp_path / "no.png").write_bytes(content)
        with pytest.raises(LirfError, match=f"This is {name}. Only PNG and JPEG images can be decoded") as caught:
            service.reader.predict("birds", tmp_path / "no.png")
        assert caught.value.status == 422


@begins_with()
def test_the_model_describes_itself_in_the_protocols_words(service: Service) -> None:

    headers = {"Authorization": f"Bearer {service.key_of('app')}"}
    metadata = HTTP.get(f"{service.url}/v2/models/birds", headers=headers).json()
    assert metadata["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    assert [output["name"] for output in metadata["outputs"]] == ["logits", "probabilities", "class"]
    assert HTTP.get(f"{service.url}/v2/models/birds/ready", headers=headers).status_code == 200
    assert HTTP.get(f"{service.url}/v2/models/dodos/ready", headers=headers).status_code == 404


@begins_with("auk")
def test_a_small_cache_answers_the_same(service: Service) -> None:
    from app.inference.engine import InferenceEngine, Inputs
    from app.inference.views import SERVED
    from lirf_core.compute import Compute
    from worker.work import Work

    deposit_id = service.deposits[0]
    service.custodian.withdraw([deposit_id], holder="h", reason="r")
    vault = Work(service.settings).vault
    images = torch.randn(2, 1, 8, 8)
    engines = [InferenceEngine(service.database, vault, Compute.for_inference("cpu"), size) for size in (0, 1 << 30)]
    answers = [
        asyncio.run(engine.answer("birds", SERVED, lambda _: Inputs.of(images)))[1]
        for engine in engines
        for _ in range(2)
    ]
    assert all(torch.equal(answer, answers[0]) for answer in answers)
    for engine in engines:
        engine.close()
