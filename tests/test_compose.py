"""The compose file keeps the rules of CIS's Docker benchmark, and gives nobody more than it needs."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.base.settings import Settings

ROOT = Path(__file__).parents[1]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONCE = {"migrate", "bucket", "store-folder"}  # run to their end before others start
ROOTS = {"store-folder": ["CHOWN"]}  # user 0, with this capability, no network, and a folder that it hands over
WITH_KEY = {"api", "worker"}
EACH = pytest.mark.parametrize("name", sorted(SERVICES))


def text(value: object) -> str:
    return value if isinstance(value, str) else "\n".join(map(str, value)) if isinstance(value, list) else ""


@EACH
def test_a_container_has_no_right_that_it_does_not_need(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service.get("cap_add", []) == ROOTS.get(name, [])
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["read_only"] is True
    assert not {"privileged", "pid", "ipc", "userns_mode", "devices"} & service.keys()
    user, _, group = service["user"].partition(":")
    assert user.isdigit()
    assert group.isdigit()
    assert (user == "0") is (name in ROOTS)
    if name in ROOTS:
        assert service["network_mode"] == "none"
        assert name in ONCE


@EACH
def test_a_container_is_limited_and_watched(name: str) -> None:
    service = SERVICES[name]
    assert service["mem_limit"]
    assert 0 < service["pids_limit"] <= 4096
    if name in ONCE:
        assert service["restart"] == "no"
    elif name != "api":  # the image has the API's check
        assert service["healthcheck"]["test"]


@EACH
def test_no_password_is_on_a_command_line_or_has_a_default(name: str) -> None:
    service = SERVICES[name]
    for part in ("command", "entrypoint"):
        assert "${" not in text(service.get(part)), part
    assert "${" not in text(service.get("healthcheck", {}).get("test"))
    for variable in re.findall(r"\$\{(\w+)[^}]*\}", str(service.get("environment", {}))):
        assert f"${{{variable}:?set it in .env}}" in str(service["environment"])


@EACH
def test_only_the_api_is_reached_from_outside_and_only_from_this_machine(name: str) -> None:
    service = SERVICES[name]
    assert (service.get("ports"), service.get("networks")) == (
        (["127.0.0.1:8000:8000"], ["inside", "outside"])
        if name == "api"
        else (None, None if service.get("network_mode") == "none" else ["inside"])
    )
    assert COMPOSE["networks"]["inside"]["internal"] is True


@EACH
def test_only_what_opens_objects_has_the_master_key(name: str) -> None:
    mounted = [volume.split(":")[0] for volume in SERVICES[name].get("volumes", [])]
    assert ("state" in mounted) is (name in WITH_KEY)
    assert not any(source.startswith(("/", ".", "~")) for source in mounted)  # nothing of the host, no Docker socket


@EACH
def test_an_image_has_a_full_version(name: str) -> None:
    image = SERVICES[name]["image"]
    assert image == "lirf" or re.fullmatch(r"[\w./-]+:\d+\.\d+[\w.-]*(@sha256:[0-9a-f]{64})?", image)


@pytest.mark.parametrize("name", ["docker-compose.yml", "docker-compose.cpu.yml"])
def test_the_file_obeys_the_compose_specification(name: str, tmp_path: Path) -> None:
    """Its JSON schema: compose refuses a misspelt option, and a container would lack the limit."""
    path = tmp_path / name
    path.write_text((ROOT / name).read_text().replace("!reset ", ""))  # a tag of compose, which plain YAML lacks
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@EACH
def test_everything_that_a_service_refers_to_is_declared(name: str) -> None:
    service = SERVICES[name]
    for other, condition in service.get("depends_on", {}).items():
        needs_check = condition["condition"] == "service_healthy"
        assert (other in ONCE) is (condition["condition"] == "service_completed_successfully")
        assert not needs_check or SERVICES[other]["healthcheck"]["test"]
    assert set(service.get("networks") or []) <= COMPOSE["networks"].keys()
    assert set(service.get("secrets", [])) <= COMPOSE["secrets"].keys()
    assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= COMPOSE["volumes"].keys()


def test_the_store_listens_with_a_password_or_to_itself() -> None:
    command = text(SERVICES["store"]["command"])
    assert "-ip.bind=127.0.0.1" in command
    assert "-s3.ip.bind=0.0.0.0" in command
    assert "-s3.config=" in command


def test_every_setting_of_the_file_exists() -> None:
    own = {"LIRF_LIFE_SIGN_FILE"}
    names = {
        name for service in SERVICES.values() for name in service.get("environment", {}) if name.startswith("LIRF")
    }
    assert names - own <= {f"LIRF_{field.upper()}" for field in Settings.model_fields}


def test_each_secret_is_asked_for_in_the_example() -> None:
    example = (ROOT / ".env.example").read_text()
    assert all(f"{secret['environment']}=\n" in example for secret in COMPOSE["secrets"].values())
