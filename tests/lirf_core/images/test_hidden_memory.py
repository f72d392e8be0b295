"""A decoder cannot read the memory of the process that started it, although both have one user."""

import os
import subprocess
import sys
from pathlib import Path

NOBODY = 65534
PROGRAM = """
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from lirf_core.images.decoding import Decoders
if sys.argv[2] == "hidden":
    decoders = Decoders()
look = (
    "import os\\n"
    "for name in ('mem', 'environ', 'maps'):\\n"
    "    try: open(f'/proc/{os.getppid()}/{name}', 'rb').read(1 if name != 'mem' else 0); print('read', name)\\n"
    "    except OSError: print('refused', name)\\n"
)
subprocess.run([sys.executable, "-I", "-c", look], check=True)
if sys.argv[2] == "hidden":
    decoders.close()
"""


def test_a_process_with_decoders_is_closed_to_its_own_children() -> None:
    root = str(Path.cwd())

    def seen(state: str) -> set[str]:
        user = NOBODY if os.getuid() == 0 else None  # root may trace any process
        printed = subprocess.run(
            [sys.executable, "-c", PROGRAM, root, state], capture_output=True, text=True, check=True, user=user, cwd="/"
        )
        return set(printed.stdout.splitlines())

    assert seen("open") == {"read mem", "read environ", "read maps"}
    assert seen("hidden") == {"refused mem", "refused environ", "refused maps"}
