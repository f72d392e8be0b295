"""Schemathesis sends every route valid and invalid requests, with a key of each role.

There must be no 5xx, no answer that differs from the description, and no accepted request that the description forbids.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from app.access.service import Role
from tests.app.conftest import KINDS, Service, begins_with
from tests.doses import dose

ROOT = Path(__file__).parents[2]
CASES = dose(5, 125)  # of each route

pytestmark = [pytest.mark.timeout(3600), pytest.mark.attack, begins_with("auk")]


@pytest.mark.parametrize("database_url", KINDS[-1:], indirect=True)  # PostgreSQL accepts fewer values
def test_values_at_their_limits_are_answered_as_described(service: Service, tmp_path: Path) -> None:
    attack(service, [Role.ADMINISTRATOR], "examples,coverage", tmp_path, least=1000)  # all cases, at any dose


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("role", [*Role, "reader"])
def test_each_role_is_answered_as_described(service: Service, role: str, tmp_path: Path) -> None:
    phases = "fuzzing,stateful" if role == Role.ADMINISTRATOR else "fuzzing"
    attack(service, [Role(role)] if role != "reader" else [], phases, tmp_path, least=20 * CASES)


def attack(service: Service, roles: list[Role], phases: str, folder: Path, least: int) -> None:
    service.custodian.withdraw(service.deposits, holder="h", reason="r")
    key = service.key_of("schemathesis", *roles)
    result = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli", "--no-color"),
            *("--config-file", str(ROOT / "tests" / "app" / "schemathesis.toml")),
            *("run", f"{service.url}/openapi.json", "-H", f"Authorization: Bearer {key}"),
            *("--checks", "all", "--phases", phases, "--max-examples", str(CASES), "--no-shrink"),
            *("--exclude-path", "/v1/keys/{key_id}"),  # an administrator would revoke its own key
        ],
        cwd=folder,  # it leaves its findings there
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, re.sub(r"lirf_\w+", "lirf_...", result.stdout[-20_000:] + result.stderr[-2000:])
    generated = re.search(r"(\d+) generated", result.stdout)
    assert generated, result.stdout
    assert int(generated[1]) >= least  # it did send requests
