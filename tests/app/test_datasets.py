import io
import zipfile
from pathlib import Path

import pytest

from lirf_client import LirfError
from tests.app.conftest import Service, begins_with
from tests.app.factories import deposit_zip, png
from tests.lirf_core.factories import SPEC
from tests.lirf_core.images import pictures
from tests.lirf_core.images.test_archives import black_frame, stored_name, zipped

CLOTHES = ["T-shirt/top", "caf\u00e9", "top", "coat", "bag"]


def register_clothes(service: Service) -> None:
    architecture = {"name": SPEC.name, "width": SPEC.width}
    preprocessing = {"height": 8, "width": 8, "mean": [0.5], "std": [0.5]}
    service.operator.register_model("clothes", architecture=architecture, classes=CLOTHES, preprocessing=preprocessing)
    service.operator.put_weights("clothes", service.weights())


def test_classes_with_slashes_and_accents_are_deposited_by_any_form_of_their_names(service: Service) -> None:
    register_clothes(service)
    dataset = service.operator.upload_dataset("clothes", service.archive(["T-shirt/top", "cafe\u0301"], 2))
    assert dataset["counts"] == {"T-shirt/top": 2, "caf\u00e9": 2}
    deposit = service.operator.request_deposit(
        "clothes", dataset["id"], reason="licence ended", classes=["cafe\u0301", "T-shirt/top"]
    )
    assert deposit["classes"] == ["T-shirt/top", "caf\u00e9"]


@pytest.mark.attack
def test_archives_of_strangers_are_taken_or_refused_by_their_fault(service: Service, tmp_path: Path) -> None:
    register_clothes(service)
    path, photo = tmp_path / "images.zip", pictures.WELL_FORMED["jpeg with exif and no density"]

    def upload(content: bytes) -> dict[str, int]:
        path.write_bytes(content)
        counts: dict[str, int] = service.operator.upload_dataset("clothes", path)["counts"]
        return counts

    every_picture = {f"coat/{n}": content for n, content in enumerate((pictures.WELL_FORMED | pictures.GREY).values())}
    assert upload(zipped(every_picture).getvalue()) == {"coat": len(every_picture)}
    names = [
        "caf\u00e9/1.jpg",
        "cafe\u0301/1.jpg",
        "caf\u00e9\\1.jpg",
        "set/caf\u00e9/1.jpg",
        "caf\u00e9/1".encode("cp437"),
    ]
    for name in names:
        assert upload(stored_name(name, content=photo).getvalue()) == {"caf\u00e9": 1}
    for name in ("coat/desktop.ini", "coat/thumbs.db", "__MACOSX/coat/._1.jpg", "coat/.DS_Store", "@eaDir/1.jpg"):
        assert upload(zipped({"coat/1.jpg": photo, name: b"x"}).getvalue()) == {"coat": 1}
    assert upload(zipped({"coat/1.jpg": black_frame()}, zipfile.ZIP_DEFLATED).getvalue()) == {"coat": 1}
    for content, message in pictures.REFUSED.values():
        with pytest.raises(LirfError, match=rf"'coat/1\.jpg': .*{message}") as caught:
            upload(zipped({"coat/1.jpg": content, "coat/2.jpg": photo}).getvalue())
        assert caught.value.type == "urn:lirf:problem:unreadable-images"


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
