"""What several rooms of the tests share: the digits and a network that reads them, trained once."""

import gc
import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch

from demo.digits import SPEC, Digits, train, write_weights
from lirf_core.architectures import default_split
from lirf_core.artifacts import load_original
from lirf_core.network import SplitNetwork
from tests.databases import drop_database
from tests.shared import VARIABLE, made_once

# pytest-xdist's processes share the cores, as do the services that the tests start.
if (processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)

WEIGHTS = "digits.safetensors"


def pytest_configure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):  # pytest-xdist's processes get the environment of the first
        os.environ[VARIABLE] = tempfile.mkdtemp(prefix="lirf-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    if not hasattr(config, "workerinput"):
        folder = Path(os.environ.pop(VARIABLE))
        for file in folder.glob("*/state.json"):  # tests/app/states.py
            drop_database(json.loads(file.read_text())["url"])
        shutil.rmtree(folder)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Every test in tests/e2e starts processes. The longest tests begin first, so that no process is left with one.

    They are those with a time limit of their own. pytest-xdist cuts the list into one piece for each of its processes.
    """
    for item in items:
        if "e2e" in item.path.parts:
            item.add_marker(pytest.mark.processes)
    pieces = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if pieces > 1:
        longest = [item for item in items if item.get_closest_marker("timeout")]
        others = [item for item in items if not item.get_closest_marker("timeout")]
        size = -(-len(others) // pieces)
        items[:] = [
            item
            for piece in range(pieces)
            for item in (*longest[piece::pieces], *others[piece * size : (piece + 1) * size])
        ]


def pytest_collection_finish() -> None:
    """What is imported by now stays: full collections that walk through all of it took a sixth of the tests' time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="session")
def digits_network(digits: Digits) -> SplitNetwork:
    folder = made_once("digits", lambda folder: write_weights(folder / WEIGHTS, train(digits, epochs=6)))
    with (folder / WEIGHTS).open("rb") as file:
        return load_original(file, SPEC, default_split(SPEC.name))
