"""Processes that `lirf up` starts end with it, also when it is killed and can tell them nothing."""

import os


def is_orphaned() -> bool:
    """Whether `lirf up` started this process (it then gives its process id in LIRF_EMBEDDED) and is gone."""
    starter = os.environ.get("LIRF_EMBEDDED")
    return starter is not None and os.getppid() != int(starter)
