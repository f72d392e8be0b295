"""What a process imports: torch takes seconds and half a gigabyte, which few processes need."""

import json
import subprocess
import sys

import pytest

COMPUTING = {"torch", "torchvision", "torch_pruning", "numpy", "scipy", "sklearn", "matplotlib"}
SERVING = {"fastapi", "starlette", "uvicorn", "jinja2", "typst"}
STORING = {"sqlalchemy", "alembic", "pydantic", "fsspec", "tink", "celery", "kombu"}
HELP = "import sys; sys.argv = ['lirf', '--help']\nfrom app.cli import main\ntry: main()\nexcept SystemExit: pass"
REPORT = "\nimport json, sys; print(json.dumps(sorted(sys.modules)))"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "unneeded"),
    [
        (HELP, COMPUTING | SERVING | STORING | {"httpx", "cryptography", "PIL"}),
        ("import worker.reconciler", COMPUTING | SERVING | {"httpx", "cryptography"}),
        ("import worker.__main__, worker.tasks", COMPUTING | SERVING | {"httpx", "cryptography"}),
        # It computes answers, so it needs torch; torchvision only builds the networks that are asked for.
        ("import app.main", COMPUTING - {"torch", "numpy"} | {"torch._dynamo", "celery.bin"}),
    ],
    ids=["lirf --help", "reconciler", "worker", "API"],
)
def test_a_process_imports_nothing_heavy_that_it_does_not_need(program: str, unneeded: set[str]) -> None:
    printed = subprocess.run(
        [sys.executable, "-c", program + REPORT], capture_output=True, text=True, check=True
    ).stdout
    assert unneeded & set(json.loads(printed.splitlines()[-1])) == set()
