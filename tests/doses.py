"""The length of each attack: a short dose in every run of the tests, a long dose in `make chaos`."""

import os

IS_LONG = os.environ.get("LIRF_DOSES") == "long"


def dose(short: int, long: int) -> int:
    return long if IS_LONG else short
