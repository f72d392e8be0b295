"""The state folder and the keys in it are for the service's user alone."""

import os
from pathlib import Path

import pytest

from app.base.private_paths import OpenToOthers, make_private
from app.base.settings import Settings
from app.embedded import Embedded


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_lirf_up_takes_the_permissions_of_others(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    for name in ("admin.key", "master.key"):
        (state / name).write_text("key")
        (state / name).chmod(0o644)
    state.chmod(0o777)
    Embedded(Settings(state_folder=state, _env_file=None), "127.0.0.1", 0).prepare()  # type: ignore[call-arg]
    assert [mode(path) for path in (state, state / "admin.key", state / "master.key")] == [0o700, 0o600, 0o600]


def test_another_users_folder_is_refused(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        os.chown(tmp_path, 12345, 12345)
    with pytest.raises(OpenToOthers, match="belongs to another user"):
        make_private(tmp_path, user=54321)
