"""Processes that `lirf up` starts end with it, even if it is killed and cannot tell them."""

import os


def is_embedded() -> bool:
    """Whether `lirf up` started this process; it then gives its process id in LIRF_EMBEDDED."""
    return "LIRF_EMBEDDED" in os.environ


def is_orphaned() -> bool:
    """Whether `lirf up` started this process and is gone."""
    return is_embedded() and os.getppid() != int(os.environ["LIRF_EMBEDDED"])
