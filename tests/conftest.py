"""What several rooms of the tests share: the digits and a network that reads them, trained once."""

import pytest

from demo.digits import Digits, train
from lirf_core.network import SplitNetwork


@pytest.fixture(scope="session")
def digits() -> Digits:
    return Digits()


@pytest.fixture(scope="session")
def digits_network(digits: Digits) -> SplitNetwork:
    return train(digits, epochs=12)
