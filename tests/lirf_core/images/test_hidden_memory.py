"""A decoder cannot read the memory of the process that started it, although both have one user."""

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import ctypes, os, sys
from lirf_core.images.decoding import Decoders
if os.getuid() == 0:  # root may trace any process
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # as every program begins
if sys.argv[1] == "hidden":
    Decoders()
parent = os.getpid()
if child := os.fork():
    os.waitpid(child, 0)
    os._exit(0)
for name in ("mem", "environ", "maps"):
    try:
        os.close(os.open(f"/proc/{parent}/{name}", os.O_RDONLY))
        print("read", name, flush=True)
    except OSError:
        print("refused", name, flush=True)
os._exit(0)
"""


def test_a_process_with_decoders_is_closed_to_its_own_children() -> None:
    def seen(state: str) -> set[str]:
        command = [sys.executable, "-c", PROGRAM, state]
        printed = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
        return set(printed.stdout.splitlines())

    assert seen("open") == {"read mem", "read environ", "read maps"}
    assert seen("hidden") == {"refused mem", "refused environ", "refused maps"}
