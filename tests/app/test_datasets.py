import io
import zipfile
from pathlib import Path

import pytest

from lirf_client import LirfError
from tests.app.conftest import Service, begins_with
from tests.app.factories import deposit_zip, png
from tests.lirf_core.factories import SPEC

CLOTHES = ["T-shirt/top", "caf\u00e9", "top", "coat", "bag"]


def test_classes_with_slashes_and_accents_are_deposited_by_any_form_of_their_names(service: Service) -> None:
    architecture = {"name": SPEC.name, "width": SPEC.width}
    preprocessing = {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]}
    service.operator.register_model("clothes", architecture=architecture, classes=CLOTHES, preprocessing=preprocessing)
    service.operator.put_weights("clothes", service.weights())
    dataset = service.operator.upload_dataset("clothes", service.archive(["T-shirt/top", "cafe\u0301"], 2))
    assert dataset["counts"] == {"T-shirt/top": 2, "caf\u00e9": 2}
    deposit = service.operator.request_deposit(
        "clothes", dataset["id"], reason="licence ended", classes=["cafe\u0301", "T-shirt/top"]
    )
    assert deposit["classes"] == ["T-shirt/top", "caf\u00e9"]


def vault_files(service: Service) -> list[Path]:
    return [path for path in (service.settings.folder / "vault").rglob("*") if path.is_file()]


@begins_with()
def test_an_archive_becomes_a_data_set_with_counts(service: Service) -> None:
    dataset = service.operator.upload_dataset("birds", service.archive(["dodo", "auk"], 3), purpose="evaluation")
    assert dataset["counts"] == {"auk": 3, "dodo": 3}
    assert dataset["purpose"] == "evaluation"


@begins_with()
def test_stored_images_are_not_readable_on_disk(service: Service) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("auk/a.png", png(5))
    path = service.settings.folder.parent / "one.zip"
    path.write_bytes(content.getvalue())
    service.operator.upload_dataset("birds", path)
    from PIL import Image

    pixels = Image.open(io.BytesIO(png(5))).tobytes()
    assert all(pixels not in file.read_bytes() for file in service.settings.folder.rglob("*") if file.is_file())


def refused(service: Service, content: bytes) -> LirfError:
    path = service.settings.folder.parent / "bad.zip"
    path.write_bytes(content)
    before = vault_files(service)
    with pytest.raises(LirfError) as caught:
        service.operator.upload_dataset("birds", path)
    assert caught.value.status == 422
    assert vault_files(service) == before
    assert not list(service.settings.spool.iterdir())
    assert not list((service.settings.folder / "vault" / "incoming").iterdir())
    return caught.value


@begins_with()
def test_bad_archives_are_problems_that_leave_nothing_behind(service: Service) -> None:
    assert refused(service, b"hello").type == "urn:lirf:problem:archive-refused"
    assert refused(service, deposit_zip([])).type == "urn:lirf:problem:no-images"
    assert refused(service, deposit_zip(["phoenix"])).type == "urn:lirf:problem:unknown-class"
    traversal = deposit_zip(["xxxauk"]).replace(b"xxxauk", b"../auk")
    assert refused(service, traversal).type == "urn:lirf:problem:unsafe-archive"


@begins_with()
def test_unreadable_images_are_named_in_the_problem(service: Service) -> None:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("auk/good.png", png())
        for number in range(30):
            archive.writestr(f"auk/{number:02}.png", b"not an image")
    problem = refused(service, content.getvalue())
    assert problem.type == "urn:lirf:problem:unreadable-images"
    assert problem.members["unreadable"] == [f"auk/{number:02}.png" for number in range(20)]
    assert problem.members["unreadable_total"] == 30


@begins_with()
def test_an_archive_over_the_limit_is_refused(service: Service) -> None:
    service.settings.max_archive_bytes = 500
    with pytest.raises(LirfError, match="larger than the 500 bytes") as caught:
        service.operator.upload_dataset("birds", service.archive(["auk"], 20))
    assert caught.value.status == 413


def test_a_model_without_weights_accepts_no_data(service: Service) -> None:
    preprocessing = {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]}
    architecture = {"name": "resnet18-small"}
    service.operator.register_model("bare", architecture=architecture, classes=["a", "b"], preprocessing=preprocessing)
    with pytest.raises(LirfError, match="Model 'bare' has no weights yet") as caught:
        service.operator.upload_dataset("bare", service.archive(["auk"]))
    assert caught.value.status == 409
