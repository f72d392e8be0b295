"""Signs of life of a process: for `lirf up` through a pipe, for a container's health check by a file."""

import os
from contextlib import suppress
from pathlib import Path


def send() -> None:
    """Call this for each piece of work.

    `lirf up` gives the number of a pipe in LIRF_LIFE_SIGNS; a container may name a file in LIRF_LIFE_SIGN_FILE.
    """
    if pipe := os.environ.get("LIRF_LIFE_SIGNS"):
        with suppress(BrokenPipeError, BlockingIOError):  # nobody reads it any more, or its buffer is full
            os.write(int(pipe), b".")
    if file := os.environ.get("LIRF_LIFE_SIGN_FILE"):
        Path(file).touch()
