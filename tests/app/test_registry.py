import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest
import safetensors.torch
import torch

from lirf_client import LirfError
from lirf_core.architectures import default_split
from lirf_core.network import flat_state
from tests.app.conftest import HTTP, Service, begins_with, on_one_database
from tests.lirf_core.factories import SPEC, network

BODY: dict[str, Any] = {
    "name": "birds",
    "architecture": {"name": SPEC.name, "width": SPEC.width},
    "classes": ["auk", "dodo", "emu", "heron", "kiwi"],
    "preprocessing": {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]},
}


def post(service: Service, body: object) -> httpx.Response:
    headers = {"Authorization": f"Bearer {service.key_of('op', 'operator')}"}
    return HTTP.post(f"{service.url}/v1/models", json=body, headers=headers)


def test_a_model_is_served_once_it_has_weights(service: Service) -> None:
    answer = post(service, BODY)
    assert answer.status_code == 201
    assert answer.json()["state"] == "awaiting_weights"
    with pytest.raises(LirfError, match=r"Model 'birds' has no weights yet\. Send them with `PUT") as caught:
        service.reader.predict("birds", service.weights())
    assert caught.value.status == 409

    model = service.operator.put_weights("birds", service.weights())
    assert (model["state"], model["revision"]) == ("ready", 0)
    assert service.reader.models() == [model] == [service.reader.model("birds")]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"classes": ["auk", "dodo", "auk", "emu", "kiwi"]}, "class names are not unique: 'auk'"),
        ({"classes": ["auk"]}, "at least 2 items"),
        ({"classes": ["auk", "../dodo"]}, "the class name '../dodo' cannot be a folder in an image archive"),
        ({"classes": ["auk", "/dodo"]}, "'/dodo' cannot be a folder"),
        ({"classes": ["auk", "do//do"]}, "'do//do' cannot be a folder"),
        ({"classes": ["auk", ".."]}, "'..' cannot be a folder"),
        ({"classes": ["auk", "do\\do"]}, "should match pattern"),
        ({"classes": ["caf\u00e9", "auk", "cafe\u0301"]}, "class names are not unique: 'caf\u00e9'"),
        ({"name": "../birds"}, "should match pattern"),
        ({"architecture": {"name": "vgg16"}}, "resnet18"),
        ({"architecture": {"name": "resnet18", "width": 0.5}}, "only the -small architectures have a width"),
        ({"architecture": {"name": "resnet18-small", "width": 0.3}}, "multiple of 0.125"),
        (
            {"split": "layer4"},
            "resnet18-small has no split 'layer4'. It can be split after stem, layer1, layer2, layer3",
        ),
        ({"architecture": {"name": "densenet121"}, "split": "layer2"}, "It can be split after stem, transition1"),
        ({"architecture": {"name": "vgg11_bn"}}, "vgg11_bn takes images of at least 32 by 32 pixels, not 8 by 8"),
        (
            {
                "architecture": {"name": "vit_b_16"},
                "preprocessing": {"height": 48, "width": 64, "mean": [0.5], "std": [0.5]},
            },
            "vit_b_16 takes square images whose side is a multiple of 16 pixels, not 48 by 64",
        ),
        ({"preprocessing": {"height": 8, "width": 8, "mean": [0.5], "std": [0.5, 0.5]}}, "one number each"),
        ({"preprocessing": {"height": 8, "width": 8, "mean": [0.5], "std": [0]}}, "greater than 0"),
        (
            {"preprocessing": {"height": 8, "width": 8, "mean": [73], "std": [0.5]}},
            "mean has the value 73, but must be from 0 to 1, because pixels are. If yours is for pixels from 0 to 255",
        ),
        ({"preprocessing": {"height": 8, "width": 8, "mean": [10**400], "std": [0.5]}}, "mean has the value 1000000"),
        ({"preprocessing": {"height": 8, "width": 8, "mean": [0.5], "std": [90.5]}}, "std has the value 90.5, but"),
        ({"preprocessing": {"height": 8, "width": 8, "mean": [-0.1], "std": [0.5]}}, "mean has the value -0.1, but"),
        ({"preprocessing": {**BODY["preprocessing"], "exif_orientation": "turn"}}, "'apply' or 'ignore'"),
        ({"preprocessing": {"height": 10**6, "width": 8, "mean": [0.5], "std": [1]}}, "less than or equal to 1024"),
        ({"colour": "red"}, "Extra inputs"),
    ],
)
def test_an_impossible_description_is_a_problem(service: Service, change: dict[str, Any], message: str) -> None:
    answer = post(service, {**BODY, **change})
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    assert message in answer.json()["detail"]
    assert service.reader.models() == []


@pytest.mark.parametrize(
    ("name", "split", "size", "expected"),
    [
        ("resnet18-small", None, 8, {"width": 1.0}),
        ("mobilenet_v2", "features.13", 8, {"width": 1.0}),
        ("vit_b_16", None, 48, {"width": 1.0, "image_size": 48}),
    ],
)
def test_the_split_defaults_to_the_architectures_and_a_vit_gets_the_image_size(
    service: Service, name: str, split: str | None, size: int, expected: dict[str, float]
) -> None:
    preprocessing = {"height": size, "width": size, "mean": [0.5], "std": [0.5]}
    model = service.operator.register_model(
        "birds", architecture={"name": name}, classes=BODY["classes"], preprocessing=preprocessing, split=split
    )
    assert model["architecture"] == {"name": name, "classes": 5, "channels": 1, **expected}
    assert model["split"] == (split or default_split(name))


@on_one_database
def test_a_model_whose_architecture_forgets_badly_has_a_warning(service: Service) -> None:
    preprocessing = {"height": 32, "width": 32, "mean": [0.5], "std": [0.5]}
    for name, words in (
        ("mobilenet_v3_small", "still answered 12 %"),
        ("efficientnet_b0", None),
        ("resnet18", None),
    ):
        service.operator.register_model(
            name, architecture={"name": name}, classes=["auk", "emu"], preprocessing=preprocessing
        )
        warnings = service.reader.model(name)["warnings"]
        assert words is None or words in warnings[0]
        assert len(warnings) == (words is not None)


def test_a_name_can_be_used_only_once(service: Service) -> None:
    assert post(service, BODY).status_code == 201
    again = post(service, BODY)
    assert (again.status_code, again.json()["type"]) == (409, "urn:lirf:problem:name-taken")


def file_of(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def pickled() -> bytes:
    return pickle.dumps(dict.fromkeys(flat_state(network()), 1))


def torch_saved() -> bytes:
    file = io.BytesIO()
    torch.save(flat_state(network()), file)
    return file.getvalue()


def changed(change: Callable[[dict[str, torch.Tensor]], object]) -> bytes:
    state = {name: tensor.clone() for name, tensor in flat_state(network()).items()}
    change(state)
    return safetensors.torch.save(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (pickled, "This is a pickle, which is never loaded. Save the state dict with safetensors"),
        (torch_saved, "a zip or torch.save file"),
        (lambda: b"", "The header length does not fit a safetensors file"),
        (
            lambda: changed(lambda s: s.update({"fc.weight": torch.zeros(10, 128)})),
            r"'fc.weight' has shape [10, 128]; the arch",
        ),
        (lambda: changed(lambda s: s.pop("conv1.weight")), "Tensor 'conv1.weight' of shape [8, 1, 3, 3] is missing"),
        (lambda: changed(lambda s: s["fc.bias"].fill_(float("inf"))), "'fc.bias' has values that are not finite"),
    ],
)
def test_weights_that_cannot_be_used_leave_nothing_behind(
    service: Service, tmp_path: Path, make: Callable[[], bytes], message: str
) -> None:
    post(service, BODY)
    with pytest.raises(LirfError) as caught:
        service.operator.put_weights("birds", file_of(tmp_path / "w", make()))
    assert (caught.value.status, caught.value.type) == (422, "urn:lirf:problem:weights-refused")
    assert message in caught.value.detail
    assert service.reader.model("birds")["state"] == "awaiting_weights"
    assert not any(path.is_file() for path in (service.settings.folder / "vault").rglob("*"))
    assert not list(service.settings.spool.iterdir())


def test_weights_larger_than_the_architecture_allows_are_refused(service: Service, tmp_path: Path) -> None:
    post(service, BODY)
    with pytest.raises(LirfError, match="is larger than the") as caught:
        service.operator.put_weights("birds", file_of(tmp_path / "w", bytes(20 << 20)))
    assert caught.value.status == 413


@begins_with()
def test_weights_can_be_sent_only_once(service: Service) -> None:
    with pytest.raises(LirfError, match=r"serves revision 0\. Register other weights under another name"):
        service.operator.put_weights("birds", service.weights(1))


def test_a_registration_without_weights_can_be_removed(service: Service) -> None:
    post(service, BODY)
    service.operator.remove_unfinished_model("birds")
    assert service.reader.models() == []
    service.register()
    with pytest.raises(LirfError, match="Missing role 'administrator'"):
        service.operator.remove_unfinished_model("birds")


def test_an_unknown_model_is_a_problem(service: Service) -> None:
    with pytest.raises(LirfError, match=r"There is no model 'dodos'\. `GET /v1/models` lists the models") as caught:
        service.reader.model("dodos")
    assert caught.value.status == 404


def test_a_large_json_body_is_refused(service: Service) -> None:
    service.settings.max_body_bytes = 1000
    answer = post(service, {**BODY, "classes": ["x" * 190 + str(n) for n in range(10)]})
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert "larger than the 1000 bytes" in answer.json()["detail"]
