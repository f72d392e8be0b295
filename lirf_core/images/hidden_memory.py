"""Keeps other processes of the same user out of this process's memory."""

import ctypes
import sys

_PR_SET_DUMPABLE = 4  # prctl(2)


def hide_memory() -> None:
    """From now on, no process without the right to trace any process can read this one's memory, environment or files.

    A decoder that an image took over has this process's user, and this process has keys. Also: no core dumps.
    Raises OSError.
    """
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "the process's memory could not be hidden from its decoders")
