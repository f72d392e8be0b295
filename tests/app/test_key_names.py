"""Names of keys are labels: none passes for another key, for a user, or for a part of the service."""

import pytest

from app.access.names import fault_of, normal_form
from lirf_client import LirfError
from tests.app.conftest import Service, on_one_database

REFUSED = [
    *("worker", "Worker", "RECONCILER", "system", "local administrator", "Local  Administrator", "ｗｏｒｋｅｒ"),
    *("oidc:alice", "OIDC:alice", "ｏｉｄｃ：alice", "oidc :alice"),
    *("alice\n", "ali\u0000ce", "ali\u001b[31mce", "alice\u2028", "alice\u0085", "alice\u00a0b"),
    *("\u202ealice", "alice\u200b", "ali\u2066ce", "alice\ufe0f", "alice\u3164", "\ufeffalice", "ali\u00adce"),
    *(" alice", "alice ", "alice  b", "\ue000", "a\U000e0041"),
    *("w\u043erker", "\u0430lice", "\u03b1lpha"),  # Cyrillic o, Cyrillic a, Greek alpha among Latin letters
    *("01a2230d-684f-709b-831e-551a48585c02", "lirf_0123456789ab_x", "\ufdfa" * 20),
]
TAKEN = ["alice b", "ALICE B", "Alice B", "ａｌｉｃｅ b", "alice 𝐛"]
FREE = [
    "alice c",
    "Алиса",
    "爱丽丝",
    "أليس",
    "Zoë O'Neil-Müller (licensing)",
    "team 7",
    "workers",
    "worker 2",
    "👩‍"[:1],
]


@pytest.mark.parametrize("name", REFUSED, ids=ascii)
def test_a_misleading_name_is_refused(name: str) -> None:
    assert fault_of(name)


@pytest.mark.parametrize("name", FREE, ids=ascii)
def test_names_of_people_and_teams_are_taken(name: str) -> None:
    assert fault_of(name) is None


@on_one_database
def test_the_service_refuses_misleading_names_and_says_why(service: Service) -> None:
    for name in ("worker", "oidc:alice", "ali\u202ece"):
        with pytest.raises(LirfError) as refused:
            service.administrator.create_key(name, [])
        assert refused.value.type == "urn:lirf:problem:key-name-refused"
        assert "\u202e" not in str(refused.value)


def test_two_valid_keys_never_have_names_that_look_alike(service: Service) -> None:
    first = service.administrator.create_key("alice b", [])
    for name in TAKEN:
        with pytest.raises(LirfError) as refused:
            service.administrator.create_key(name, [])
        assert refused.value.type == "urn:lirf:problem:key-name-taken", name
    service.administrator.revoke_key(first["id"])
    assert service.administrator.create_key("Alice B", [])["id"] != first["id"]


def test_normal_forms_ignore_case_compatibility_and_spaces() -> None:
    assert normal_form("Stra\u00dfe") == normal_form("STRASSE")
    assert normal_form("\ufb01sh") == normal_form("FISH")
    assert normal_form("e\u0301") == normal_form("\u00c9")
