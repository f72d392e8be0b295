import io
import os
import random
import secrets
from pathlib import Path

import pytest
from moto.server import ThreadedMotoServer

from app.base.database import Database
from app.base.settings import Settings
from app.vault import service as vaults
from app.vault.keys import FileMasterKeys, UnsafeKeyFile
from app.vault.objects import ObjectStore
from app.vault.service import Binding, Shredded, StoredObject, Vault, VaultDamaged
from tests.doses import dose

BINDING = Binding("module", "model-1", "deposit-1")


@pytest.fixture(params=["folder", "s3"])
def vault(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    keys = FileMasterKeys(tmp_path / "master.key")
    if request.param == "folder":
        yield Vault(ObjectStore(f"file://{tmp_path / 'vault'}", {}, tmp_path), keys)
        return
    import boto3

    server = ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    endpoint = f"http://{host}:{port}"
    bucket = f"vault-{secrets.token_hex(8)}"  # all servers in one process share their buckets
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1").create_bucket(Bucket=bucket)
    yield Vault(ObjectStore(f"s3://{bucket}/objects", {"endpoint_url": endpoint}, tmp_path), keys)
    server.stop()


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5_000_000])
def test_a_stored_object_reads_back_unchanged(vault: Vault, size: int) -> None:
    data = content(size)
    sealed = vault.put(BINDING, (data[i : i + 70_000] for i in range(0, size, 70_000)))
    assert vault.read(sealed) == data
    assert (sealed.plaintext_bytes, vault.objects.names()) == (size, {sealed.name})
    vault.objects.remove(sealed.name)
    vault.objects.remove(sealed.name)
    assert vault.objects.names() == set()


def test_progress_is_reported_while_an_object_is_encrypted_uploaded_and_decrypted(vault: Vault) -> None:
    calls: list[int] = []
    watched = vault.watched(lambda: calls.append(len(calls)))
    data = content(20 << 20)
    sealed = watched.put(BINDING, [data])
    uploaded = 0 if vault.objects._is_local else 3
    assert len(calls) >= 20 + uploaded
    calls.clear()
    assert watched.read(sealed) == data
    assert len(calls) >= 20


def test_storing_the_same_plaintext_twice_gives_two_names(vault: Vault) -> None:
    assert vault.put(BINDING, [b"same"]).name != vault.put(BINDING, [b"same"]).name


def path_of(vault: Vault, sealed: StoredObject) -> Path:
    return next(Path(vault.objects._root).rglob(sealed.name))


@pytest.fixture
def local(tmp_path: Path) -> Vault:
    return Vault(ObjectStore(f"file://{tmp_path / 'vault'}", {}, tmp_path), FileMasterKeys(tmp_path / "master.key"))


@pytest.mark.attack
def test_flipped_truncated_swapped_and_appended_bytes_are_refused(local: Vault) -> None:
    sealed = local.put(BINDING, [content(100_000)])
    path, good = path_of(local, sealed), path_of(local, sealed).read_bytes()
    chance = random.Random(0)
    for number in range(dose(200, 1000)):
        place, other = sorted(chance.sample(range(len(good)), 2))
        damaged = {
            0: good[:place] + bytes([good[place] ^ (1 << chance.randrange(8))]) + good[place + 1 :],
            1: good[:place],
            2: good + chance.randbytes(1 + place % 50),
            3: good[:place] + good[other:] + good[place:other],
        }[number % 4]
        path.write_bytes(damaged)
        with pytest.raises(VaultDamaged):
            local.read(sealed)
    path.write_bytes(good)
    assert local.read(sealed) == content(100_000)
    path.unlink()
    with pytest.raises(VaultDamaged, match="Restore its file from a backup"):
        local.read(sealed)


def test_an_object_cannot_replace_another(local: Vault) -> None:
    mine, other = local.put(BINDING, [b"mine"]), local.put(BINDING, [b"other"])
    first, second = path_of(local, mine), path_of(local, other)
    (a, b) = first.read_bytes(), second.read_bytes()
    first.write_bytes(b)
    second.write_bytes(a)
    with pytest.raises(VaultDamaged):
        local.read(mine)
    elsewhere = StoredObject(mine.id, other.name, Binding("module", "model-2", "deposit-1"), mine.wrapped_key, 1, 4, 0)
    with pytest.raises(VaultDamaged):
        local.read(elsewhere)


def test_an_unfinished_object_leaves_nothing_behind(local: Vault) -> None:
    def breaks():  # type: ignore[no-untyped-def]
        yield b"half"
        raise OSError("the source broke")

    with pytest.raises(OSError, match="the source broke"):
        local.put(BINDING, breaks())
    assert local.objects.names() == set()
    assert not [path for path in Path(local.objects._root).rglob("*") if path.is_file()]


def test_the_plaintext_is_nowhere_on_disk(local: Vault, tmp_path: Path) -> None:
    canary = b"CANARY-" + os.urandom(16).hex().encode()
    local.put(BINDING, [canary * 1000])
    assert all(canary not in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())


def test_an_object_is_flushed_before_its_rename_and_its_folder_after(
    local: Vault, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def traced_fsync(descriptor: int) -> None:
        order.append("flush folder" if Path(f"/proc/self/fd/{descriptor}").resolve().is_dir() else "flush file")
        fsync(descriptor)

    def traced_replace(path: Path, target: Path) -> Path:
        order.append("rename")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", traced_fsync)
    monkeypatch.setattr(Path, "replace", traced_replace)
    local.put(BINDING, [b"x"])
    assert order == ["flush file", "rename", "flush folder", "flush folder"]


def test_a_key_file_that_other_users_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "master.key"
    FileMasterKeys(path)
    assert path.stat().st_mode & 0o777 == 0o600
    path.chmod(0o644)
    with pytest.raises(UnsafeKeyFile, match="chmod 600"):
        FileMasterKeys(path)


def test_a_shredded_object_cannot_be_opened(local: Vault, database: Database, settings: Settings) -> None:
    sealed = local.put(BINDING, [b"secret"])
    with database.session() as session, session.begin():
        vaults.record(session, sealed)
    with database.session() as session, session.begin():
        assert vaults.stored_object(session, sealed.id) == sealed
        assert vaults.shred(session, sealed.id) == sealed.name
    with database.session() as session, session.begin(), pytest.raises(Shredded, match="was shredded at"):
        vaults.stored_object(session, sealed.id)


def test_a_stream_that_ends_early_is_refused(local: Vault) -> None:
    sealed = local.put(BINDING, [content(3 << 20)])
    path = path_of(local, sealed)
    path.write_bytes(path.read_bytes()[: 2 << 20])  # the first segment stays whole
    with pytest.raises(VaultDamaged):
        local.copy_to(sealed, io.BytesIO())
