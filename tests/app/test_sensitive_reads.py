"""Whoever looks at what others do not see leaves one event, and sees nothing if it cannot be written."""

from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner

from app.cli import main
from lirf_client import LirfError
from tests.app.conftest import Service, begins_with
from tests.app.factories import infer_request

READS: dict[str, tuple[str, Callable[[Service], object]]] = {
    "raw logits": ("logits.read", lambda service: service.auditor.infer("birds", infer_request(1, raw=True))),
    "target view": (
        "logits.read",
        lambda service: service.administrator.infer("birds", infer_request(1, view="target")),
    ),
    "audit export": ("audit.exported", lambda service: list(service.auditor.audit_export())),
    "key list": ("keys.listed", lambda service: service.administrator.keys()),
}


def actions(service: Service) -> list[str]:
    with service.database.engine.connect() as connection:
        return list(connection.scalars(sa.text("SELECT action FROM audit_events ORDER BY number")))


@pytest.mark.parametrize("read", READS)
@begins_with("auk")
def test_a_sensitive_read_leaves_one_event_and_needs_it(service: Service, read: str) -> None:
    action, look = READS[read]
    before = actions(service)
    look(service)
    assert actions(service)[len(before) :] == [action]
    with service.database.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE audit_head RENAME TO audit_head_away"))
    try:
        with pytest.raises((LirfError, httpx.TransportError)) as refused:
            look(service)
        if isinstance(refused.value, LirfError):
            assert refused.value.status in (500, 503)
    finally:
        with service.database.engine.begin() as connection:
            connection.execute(sa.text("ALTER TABLE audit_head_away RENAME TO audit_head"))


@begins_with("auk")
def test_an_ordinary_answer_leaves_no_event(service: Service) -> None:
    before = actions(service)
    service.auditor.infer("birds", infer_request(1))
    service.reader.models()
    assert actions(service) == before


@begins_with("auk")
def test_a_backup_is_an_event_that_the_copy_has(
    service: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = actions(service)
    monkeypatch.setenv("LIRF_DATABASE_URL", service.settings.database)
    command = ["backup", str(tmp_path / "copy"), "--state", str(service.settings.folder)]
    done = CliRunner().invoke(main, command)
    assert done.exit_code == 0, done.output
    assert actions(service)[len(before) :] == ["vault.backed_up"]
