"""Weights from a coverage-guided fuzzer: `python -m tests.lirf_core.fuzz_weights --seconds 300` (`make chaos`).

Each file must be refused with a message or load as a network. Anything else, a single allocation of 64 MB, or 2 s for a
file end the run with a report and exit code 77.
"""

import argparse
import io
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

import atheris
import safetensors.torch

with atheris.instrument_imports(include=["lirf_core.artifacts", "safetensors"]):
    from lirf_core import artifacts

from lirf_core.network import flat_state
from tests.lirf_core.factories import SPEC, network


def attempt(content: bytes) -> None:
    with suppress(artifacts.NotSafetensors, artifacts.DoesNotFit):
        artifacts.load_original(io.BytesIO(content), SPEC, "layer2")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=300)
    seconds = parser.parse_args().seconds
    good = safetensors.torch.save(flat_state(network()))
    header = good[: 8 + int.from_bytes(good[:8], "little")]
    with tempfile.TemporaryDirectory() as corpus:
        for name, content in {"good": good, "header": header, "empty": b""}.items():
            (Path(corpus) / name).write_bytes(content)
        limits = [f"-max_total_time={seconds}", f"-max_len={len(good) + 1000}", "-malloc_limit_mb=64", "-timeout=2"]
        atheris.Setup([sys.argv[0], *limits, f"-artifact_prefix={corpus}/", corpus], attempt)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
