"""What several rooms of the tests share: the digits and a network that reads them, trained once."""

import os

import pytest
import torch

from demo.digits import Digits, train
from lirf_core.network import SplitNetwork

# pytest-xdist's processes share the cores, as do the services that the tests start.
if (processes := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:
    threads = max(1, (os.cpu_count() or 1) // processes)
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="session")
def digits_network(digits: Digits) -> SplitNetwork:
    return train(digits, epochs=12)
