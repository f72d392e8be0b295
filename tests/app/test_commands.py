"""What users do wrong, and what other programs wrote: one line says what to do, and nothing is dropped in silence."""

import io
import json
import os
import threading
import zipfile
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import sqlalchemy as sa
from PIL import Image
from rich.console import Console
from typer.testing import CliRunner, Result

from app.base.settings import Settings
from app.cli import main, output, text_files
from app.cli import service as service_commands
from app.cli.image_folders import count_files, zipped
from app.datasets.tables import DatasetRow
from app.vault.keys import FileMasterKeys
from lirf_client import Client
from lirf_client.errors import NotSendable
from tests.app.conftest import HTTP, Service, begins_with, on_one_database
from tests.lirf_core.factories import SPEC
from worker.rebase import rebase_model

SECRET = "lirf_0123456789ab_canary"
Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command without a service. Whatever is wrong with it, it ends without a traceback and shows no key."""
    for name in [name for name in os.environ if name.startswith("LIRF_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str, code: int = 1, **environment: str) -> Result:
        result = CliRunner().invoke(main, list(arguments), env=environment)
        assert result.exit_code == code, result.output
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        assert SECRET not in result.output + result.stderr
        return result

    return command


@pytest.fixture
def remote(service: Service, run: Run) -> Run:
    """Runs a command against the test's service, as an administrator."""
    key = service.administrator._http.headers["Authorization"].removeprefix("Bearer ")
    return lambda *arguments, code=0: run(*arguments, code=code, LIRF_URL=service.url, LIRF_API_KEY=key)


def png(folder: Path, name: str, grey: int = 0) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8), grey).save(folder / name)
    return folder / name


@pytest.mark.parametrize(
    "arguments",
    [
        ("models", "--url", "http://[::1"),
        ("models", "--url", "http://127.0.0.1:99999"),
        ("models", "--url", "ftp://127.0.0.1"),
        ("models", "--url", "127.0.0.1:8000"),
        ("models", "--url", "http://127.0.0.1:9"),
        ("follow", "1", "--url", "http://127.0.0.1:9"),
        ("deposits", "birds\udcff"),
        ("deposits", "birds\nauk", "--url", "http://127.0.0.1:9"),
        ("up", "--state", "file"),
        ("up", "--host", "nowhere.invalid"),
        ("serve", "--host", "192.0.2.1"),
        ("vault", "check", "--state", "missing"),
        ("keys", "create", "me", "--local", "--state", "empty"),
        ("audit", "anchor", "missing/anchors"),
        ("certificate", "verify", "file", "--public-key", "file"),
        ("deposit", "birds", "file", "--reason", "r"),
    ],
    ids=" ".join,
)
def test_a_mistake_ends_in_one_line(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "file").write_text("neither a key nor a folder")
    (tmp_path / "empty").mkdir()
    printed = run(*arguments).stderr.strip().splitlines()
    assert printed[-1].startswith("lirf: ")
    assert printed[-1].endswith(".")


@pytest.mark.parametrize("option", ["--width=nan", "--mean=0.5,inf", "--classes=@missing", "--classes=@."])
def test_an_option_that_cannot_be_read_is_refused_before_anything_is_sent(
    run: Run, tmp_path: Path, option: str
) -> None:
    (tmp_path / "weights").touch()
    needed = ["--weights", "weights", "--classes", "a,b", "--architecture", "resnet18", "--size", "32"]
    assert "Invalid value" in run("register", "birds", *needed, option, code=2).stderr


@pytest.mark.parametrize(
    "environment",
    [
        {"LIRF_VAULT_OPTIONS": SECRET},
        {"LIRF_LEASE_SECONDS": SECRET},
        {"LIRF_DATABASE_URL": f"nonsense://u:{SECRET}@h/x"},
        {"LIRF_DATABASE_URL": f"postgresql+psycopg://u:{SECRET}@127.0.0.1:9/x"},
        {"LIRF_DATABASE_URL": "sqlite:////missing/x.sqlite3"},
        {"LIRF_DATABASE_URL": f"u:{SECRET}@h"},
        {"LIRF_DATABASE_URL": f"postgresql+psycopg://u:p@h:{SECRET}/x"},
    ],
    ids=str,
)
def test_a_wrong_setting_is_named_without_its_value(run: Run, environment: dict[str, str]) -> None:
    assert run("migrate", **environment).stderr.startswith("lirf: ")


@pytest.mark.parametrize("key", [f"{SECRET}\rx", f"{SECRET} x", f"{SECRET}é", f"{SECRET}\n{SECRET}"])
def test_no_error_shows_a_key(run: Run, tmp_path: Path, key: str) -> None:
    (tmp_path / "admin.key").write_bytes(key.encode())
    here = ["--url", "http://127.0.0.1:9", "--state", str(tmp_path)]
    assert "The API key contains" in run("models", *here).stderr
    assert "The API key contains" in run("models", *here, LIRF_API_KEY=key).stderr
    png(tmp_path, "bird.png")
    token = run("predict", "birds", "bird.png", "--token", key.replace(" ", "\t"), *here, LIRF_API_KEY="lirf_x").stderr
    assert "The withdrawal token contains" in token
    assert "must not contain" in run("models", "--url", f"http://u:{SECRET}@127.0.0.1").stderr
    for wrong in (key, f"x{key}"):
        with pytest.raises(ValueError, match="API key") as error:
            Client("http://127.0.0.1", wrong)
        assert SECRET not in str(error.value)


@pytest.mark.parametrize("name", ["../keys", "birds/weights", "b?confirm=b", "b#", "", ".", "..", "b\n", "b%2Fc", "ä"])
def test_a_name_that_would_lead_to_another_route_is_not_sent(run: Run, name: str) -> None:
    with Client("http://127.0.0.1:9") as client:  # nobody answers there
        calls = (client.model, client.deposit, client.evidence, client.revoke, client.revoke_key, client.classes)
        for call in calls:
            with pytest.raises(NotSendable, match="neither a name nor an id"):
                call(name)
    assert "neither a name nor an id" in run("classes", "--url", "http://127.0.0.1:9", "--", name).stderr


class Foreign(BaseHTTPRequestHandler):
    """Another web server: it answers every request with one page."""

    page: bytes

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.page)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@pytest.mark.parametrize("page", [b"<html>It works!</html>", b"[1, 2]", b"\xff", b"null"])
def test_an_answer_of_another_server_is_called_so(run: Run, tmp_path: Path, page: bytes) -> None:
    png(tmp_path, "bird.png")
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Page", (Foreign,), {"page": page})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        for command in (["models"], ["classes", "birds"], ["predict", "birds", "bird.png"]):
            assert "is not from a LIRF service" in run(*command, "--url", url).stderr
        server.shutdown()


def test_a_prediction_without_a_number_is_an_error(run: Run, tmp_path: Path) -> None:
    png(tmp_path, "bird.png")
    page = (
        b'{"model": "birds", "revision": 0, "withdrawals": [], "predictions": [{"class": "auk", "probability": null}]}'
    )
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Page", (Foreign,), {"page": page})) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        assert "has no number for auk" in run("predict", "birds", "bird.png", "--url", url).stderr
        server.shutdown()


def test_settings_and_keys_may_have_a_byte_order_mark(run: Run, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LIRF_LEASE_SECONDS=-1\r\n", encoding="utf-8-sig")
    assert "LIRF_LEASE_SECONDS" in run("migrate").stderr
    (tmp_path / ".env").write_bytes("LIRF_STATE_FOLDER=Pinguïn".encode("latin-1"))
    assert "is not text in UTF-8" in run("migrate").stderr
    (tmp_path / ".env").unlink()
    run("migrate", "--help", code=0)
    state = tmp_path / "state"
    FileMasterKeys(Settings(state_folder=state, _env_file=None).master_key)  # type: ignore[call-arg]
    key = state / "master.key"
    key.write_text(key.read_text().replace("\n", "\r\n"), encoding="utf-8-sig")
    run("migrate", code=0, LIRF_STATE_FOLDER=str(state))
    assert "All objects can be opened" in run("vault", "check", "--state", str(state), code=0).stdout
    key.write_text("not a keyset")
    assert "is not a Tink keyset" in run("vault", "check", "--state", str(state)).stderr


def test_only_a_terminal_sees_the_first_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "admin.key").write_text(SECRET)
    for is_terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=is_terminal, color_system=None)
        monkeypatch.setattr(service_commands, "out", console)
        service_commands._greet("http://127.0.0.1:8000", tmp_path, tmp_path / "admin.key")
        printed = console.file.getvalue()  # type: ignore[attr-defined]
        assert (SECRET in printed) == is_terminal
        assert str(tmp_path / "admin.key") in printed


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_files_of_any_editor_are_read(tmp_path: Path, encoding: str, end: str) -> None:
    names = ["auk", "T-shirt top", "Pinguïn", "a\u2028b\x85c"]
    (tmp_path / "classes.txt").write_bytes((end.join(f"{name} \t" for name in names) + 2 * end).encode(encoding))
    assert text_files.lines(tmp_path / "classes.txt") == names


@pytest.mark.parametrize(
    ("content", "advice"),
    [
        ("auk\nPinguïn\n".encode("latin-1"), "is not UTF-8 text: see line 2. It may be Latin-1"),
        ("auk\nemu\n".encode("utf-16-le"), "If it is UTF-16 without a byte-order mark, save it as UTF-8."),
        (b"auk\n\nemu\n", "number 2, is empty"),
        (b"", "is empty"),
    ],
)
def test_a_list_of_classes_that_would_be_misread_is_refused(
    run: Run, tmp_path: Path, content: bytes, advice: str
) -> None:
    (tmp_path / "classes.txt").write_bytes(content)
    needed = ["--weights", "classes.txt", "--architecture", "resnet18", "--size", "32"]
    shown = run("register", "birds", "--classes", "@classes.txt", *needed, code=2, COLUMNS="300").stderr
    assert advice in shown


@on_one_database
def test_a_class_list_with_a_mark_and_crlf_registers_the_names_alone(
    remote: Run, service: Service, tmp_path: Path
) -> None:
    (tmp_path / "classes.txt").write_bytes("\ufeffauk\r\n:dog:\r\n[b]dodo\r\nemu\r\nkiwi\r\n".encode())
    network = ["--architecture", SPEC.name, "--width", str(SPEC.width), "--size", "8", "--mean", "0.5", "--std", "0.5"]
    remote("register", "texts", "--weights", str(service.weights()), "--classes", "@classes.txt", *network)
    assert service.reader.model("texts")["classes"] == ["auk", ":dog:", "[b]dodo", "emu", "kiwi"]
    listed = remote("classes", "texts").stdout
    assert ":dog:" in listed
    assert "[b]dodo" in listed


def test_class_folders_are_read_through_links(tmp_path: Path) -> None:
    images, elsewhere = tmp_path / "images", tmp_path / "elsewhere"
    png(elsewhere / "dodo", "1.png")
    png(images / "auk", "1.png")
    (images / "dodo").symlink_to(elsewhere / "dodo")
    (images / "auk" / "2.png").symlink_to(elsewhere / "dodo" / "1.png")
    os.utime(images / "auk" / "1.png", (0, 0))  # 1970, which a zip cannot hold
    (images / "auk" / ".DS_Store").touch()
    (images / "dodo" / "Thumbs.db").touch()
    with zipped(images) as (archive, skipped), zipfile.ZipFile(archive) as packed:
        assert packed.namelist() == ["auk/1.png", "auk/2.png", "dodo/1.png"]
        assert count_files(archive) == 3
        assert all(packed.read(name) == (elsewhere / "dodo" / "1.png").read_bytes() for name in packed.namelist())
    assert skipped == ["auk/.DS_Store", "dodo/Thumbs.db"]


def make_empty(images: Path) -> None:
    (images / "dodo").mkdir()


def make_empty_but_for_the_system(images: Path) -> None:
    (images / "dodo").mkdir()
    (images / "dodo" / ".DS_Store").touch()


def make_broken_link(images: Path) -> None:
    (images / "dodo").symlink_to(images / "missing")


def make_loop(images: Path) -> None:
    (images / "dodo").symlink_to(images)


def make_image_outside(images: Path) -> None:
    png(images, "dodo.png")


def make_pipe(images: Path) -> None:
    os.mkfifo(images / "auk" / "dodo")


def make_undecodable_name(images: Path) -> None:
    (images / os.fsdecode(b"dod\xf6")).mkdir()
    (images / os.fsdecode(b"dod\xf6") / "1.png").touch()


@pytest.mark.parametrize(
    "make",
    [
        make_empty,
        make_empty_but_for_the_system,
        make_broken_link,
        make_loop,
        make_image_outside,
        make_pipe,
        make_undecodable_name,
    ],
)
def test_what_would_not_be_sent_is_refused_by_name(run: Run, tmp_path: Path, make: Callable[[Path], None]) -> None:
    png(tmp_path / "images" / "auk", "1.png")
    make(tmp_path / "images")
    for option in (["images"], ["good", "--evaluation", "images"]):
        png(tmp_path / "good" / "auk", "1.png")
        refused = run("deposit", "birds", *option, "--reason", "r", "--url", "http://127.0.0.1:9").stderr
        assert "dod" in refused
        assert "No answer" not in refused


def test_a_zip_with_an_empty_class_folder_is_refused_by_name(run: Run, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("auk/1.png", b"1")
        archive.mkdir("dodo")
        archive.writestr("dodo/.DS_Store", b"1")
    assert "'dodo/'" in run("deposit", "birds", "images.zip", "--reason", "r").stderr


@pytest.mark.parametrize("folder", ["dodo/", "dodo\\"])
def test_a_zip_with_entries_of_its_folders_is_counted_without_them(tmp_path: Path, folder: str) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr(folder, b"")
        archive.writestr(f"{folder}1.png", b"1")
        archive.writestr("__MACOSX/._1.png", b"1")
    with zipped(tmp_path / "images.zip") as (same, skipped):
        assert same == tmp_path / "images.zip"
        assert skipped == ["__MACOSX/._1.png"]
        assert count_files(same) == 1


@pytest.mark.parametrize("classes", ['"auk', 'au"k"', "auk\rdodo"])
@on_one_database
@begins_with("auk")
def test_a_list_of_classes_to_purge_that_cannot_be_read_is_refused(remote: Run, service: Service, classes: str) -> None:
    remote("purge", service.deposits[0], "--reason", "r", "--classes", classes, code=1 if classes == 'au"k"' else 2)
    assert service.reader.classes("birds")[0]["state"] == "deposited"


@on_one_database
@begins_with("auk")
def test_one_image_of_a_class_gets_a_warning(remote: Run, service: Service, tmp_path: Path) -> None:
    png(tmp_path / "images" / "dodo", "1.png")
    png(tmp_path / "images" / "dodo", ".hidden.png")
    printed = remote("deposit", "birds", "images", "--reason", "r", "--no-wait").stderr
    assert "Few images of 'dodo' (1)." in printed
    assert "only the operating system needs them: dodo/.hidden.png" in printed
    enough = service.operator.upload_dataset("birds", service.archive(["emu"], each=20))
    assert enough["warnings"] == []


def test_a_reason_can_neither_command_the_terminal_nor_become_markup() -> None:
    out = Console(file=io.StringIO(), width=200, emoji=False)
    out.print(output.table(("reason",), [(output.cell("\x1b[2J[red]:dog:\u202eabc\x9b"),)]))
    printed = out.file.getvalue()  # type: ignore[attr-defined]
    assert r"\x1b[2J[red]:dog:\u202eabc\x9b" in printed
    assert "\x1b" not in printed


def folder_of(path: Path, images: dict[str, int]) -> str:
    for label, count in images.items():
        for number in range(count):
            png(path / label, f"{number}.png", grey=number)
    return str(path)


@on_one_database
@begins_with()
def test_single_images_and_preserved_ones_are_sent(remote: Run, service: Service, tmp_path: Path) -> None:
    images = folder_of(tmp_path / "images", {"dodo": 1})
    held_out = folder_of(tmp_path / "held_out", {"dodo": 10})
    beside = folder_of(tmp_path / "beside", {"auk": 10})
    arguments = "deposit", "birds", images, "--samples", "--preserved", beside, "--reason", "r", "--no-wait"
    refused = remote(*arguments, code=1).stderr
    assert "'dodo' (0)" in refused
    assert "Few images" not in refused  # of a class that stays, few are enough
    remote(*arguments, "--evaluation", held_out)
    [deposit] = service.reader.deposits("birds")
    assert (deposit["kind"], deposit["classes"]) == ("samples", ["dodo"])
    assert deposit["config"]["lambda_kp"] == 1.0
    stored = HTTP.get(f"{service.url}/v1/models/birds/datasets", headers=dict(service.operator._http.headers)).json()
    shredded = {(one["purpose"], one["shredded_at"] is not None) for one in stored["items"]}
    assert shredded == {("deposit", True), ("preserved", True)} | {
        (purpose, False) for purpose in ("deposit", "evaluation", "preserved")
    }
    assert "images of" in remote("deposits", "birds").stdout


@pytest.mark.parametrize("options", [("--each-class",), ("--group", "dodo", "--group", 'auk,"emu"')])
@on_one_database
@begins_with()
def test_groups_of_classes_get_deposits_of_their_own(
    remote: Run, service: Service, tmp_path: Path, options: tuple[str, ...]
) -> None:
    images = service.archive(["auk", "dodo", "emu"])
    remote("deposit", "birds", str(images), "--reason", "r", "--epochs", "1", "--proxies", "0", "--no-wait", *options)
    [queued] = service.reader.deposits("birds")
    groups = [group["classes"] for group in queued["groups"]]
    assert groups == ([["auk"], ["dodo"], ["emu"]] if options == ("--each-class",) else [["dodo"], ["auk", "emu"]])
    service.work(queued["id"])
    told = remote("follow", queued["id"]).output
    for group in service.reader.deposit(queued["id"])["groups"]:
        assert group["deposit"] in told


def test_groups_are_listed_in_one_way(run: Run, tmp_path: Path) -> None:
    png(tmp_path / "images" / "auk", "1.png")
    both = "deposit", "birds", "images", "--reason", "r", "--each-class", "--group", "auk"
    assert "not both" in run(*both, code=2).stderr


@begins_with("auk", "dodo")
def test_a_model_is_rebased_from_the_command_line(remote: Run, service: Service, tmp_path: Path) -> None:
    images = str(service.archive(["auk", "dodo"]))
    refused = remote("rebase", "birds", "--reason", "r", code=1).stderr
    assert "were not kept when their deposits ended" in refused
    remote("rebase", "birds", "--images", str(service.archive(["auk"], name="few.zip")), "--reason", "r", code=1)

    settings = '{"epochs": 1, "batch_size": 4, "proxies": 0}'
    options = "--images", images, "--reason", "r", "--config", settings, "--no-wait", "--json"
    rebase_id = json.loads(remote("rebase", "birds", *options).stdout)["id"]
    assert rebase_model(service.worker, rebase_id)
    assert rebase_id in remote("rebases", "birds").output
    with service.database.session() as session:
        kept = session.scalars(sa.select(DatasetRow.id).where(DatasetRow.shredded_at.is_(None))).all()
    assert not kept  # also the images of the request that was refused
    second = json.loads(remote("rebase", "birds", *options).stdout)["id"]
    assert "is cancelled" in remote("cancel-rebase", second).output


def test_settings_of_a_rebase_are_json(run: Run) -> None:
    assert "--config must be JSON" in run("rebase", "birds", "--reason", "r", "--config", "epochs=1", code=2).stderr
