"""What the processes of one run of the tests make once and share."""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

VARIABLE = "TEST_SHARED_FOLDER"  # in the environment of all processes of a run; tests/conftest.py makes the folder


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """A folder that `make` has filled, in the first process that asked for it. Nobody changes it afterwards."""
    folder = Path(os.environ[VARIABLE]) / name
    with folder.with_suffix(".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (done := folder.with_suffix(".done")).exists():
            shutil.rmtree(folder, ignore_errors=True)  # of a process that failed
            folder.mkdir()
            make(folder)
            done.touch()
    return folder
