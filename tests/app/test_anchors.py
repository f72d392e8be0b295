"""An anchor file only ever gains heads that continue the chain of its last one, whatever happens to the audit."""

import json
import random
import threading
import time
from pathlib import Path

import httpx
import pytest
import sqlalchemy as sa
from typer.testing import CliRunner, Result

from app.audit import anchoring, anchors, chain
from app.audit.anchors import NotAnchors
from app.audit.tables import AuditAnchorRow, AuditEventRow, AuditHeadRow
from app.base.database import Database
from app.base.settings import Settings
from app.cli import main
from lirf_client import LirfError
from tests.app.conftest import Service, on_one_database
from tests.app.test_audit_chain import head, tamper, write
from tests.doses import dose
from worker import reconciler

TABLE = AuditEventRow.__table__


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "anchors"


def alarm(database: Database) -> str | None:
    with database.reading() as session:
        return anchoring.alarm(session)


def numbers(file: Path) -> list[int]:
    return [json.loads(line)["number"] for line in file.read_text().splitlines()]


def cut(database: Database, number: int) -> None:
    """Remove the events after this one, and rewrite the head."""

    def change(connection: sa.Connection) -> None:
        connection.execute(sa.delete(TABLE).where(TABLE.c.number > number))
        digest = connection.scalar(sa.select(TABLE.c.digest).where(TABLE.c.number == number))
        connection.execute(sa.update(AuditHeadRow).values(number=number, digest=digest))

    tamper(database, change)


def rewrite(database: Database, number: int) -> None:
    """Change who did this event, and make the chain after it fit."""

    def change(connection: sa.Connection) -> None:
        rows = connection.execute(sa.select(TABLE).where(TABLE.c.number >= number).order_by(TABLE.c.number)).mappings()
        last = None
        for row in rows.all():
            event = dict(row) | ({"actor": "somebody else"} if row["number"] == number else {})
            previous = last or row["previous"]
            last = chain.digest_of(row["number"], previous, event)
            changed = {"actor": event["actor"], "previous": previous, "digest": last}
            connection.execute(sa.update(TABLE).where(TABLE.c.number == row["number"]).values(**changed))
        connection.execute(sa.update(AuditHeadRow).values(digest=last))

    tamper(database, change)


def verify(service: Service, file: Path, command: str = "verify") -> Result:
    environment = {"LIRF_API_KEY": service.key_of(f"a{time.monotonic_ns()}", "auditor")}
    arguments = ["--anchor", str(file)] if command == "verify" else [str(file)]
    return CliRunner().invoke(main, ["audit", command, *arguments, "--url", service.url], env=environment)


@pytest.mark.attack
@pytest.mark.timeout(3600)
def test_no_round_of_the_reconciler_launders_a_cut_audit(
    service: Service, file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The tail is cut, the head rewritten; new events hide the gap; rounds follow, before and after."""
    database, chance = service.database, random.Random(0)
    for attack in range(dose(3, 50)):
        own = file.with_name(f"anchors-{attack}")
        write(database, range(20))
        with database.engine.begin() as connection:
            connection.execute(sa.delete(AuditAnchorRow))  # the file of this attack is new
        anchoring.anchor(database, own)
        anchored, evidence = head(database), own.read_bytes()
        assert [json.loads(evidence)["number"]] == [anchored.number]

        cut(database, anchored.number - chance.randint(1, 9))
        if chance.random() < 0.5:
            rewrite(database, anchored.number - 15)
        for _ in range(chance.randint(1, 3)):
            caplog.clear()
            anchoring.anchor(database, own)
            assert "not anchored any more" in caplog.text
            write(database, range(chance.randint(0, 12)))
        write(database, range(12))  # the head is beyond the anchor again
        anchoring.anchor(database, own)

        assert own.read_bytes() == evidence
        assert alarm(database)
        assert "chain-broken" in verify(service, own, "anchor").output
        assert own.read_bytes() == evidence
        assert verify(service, own).exit_code == 1
        report = service.auditor.verify_audit({"number": anchored.number, "digest": anchored.digest})
        assert (report["is_intact"], bool(report["alarm"])) == (False, True)


def test_a_chain_that_goes_on_is_anchored_and_verified(service: Service, file: Path) -> None:
    for _ in range(3):
        assert verify(service, file, "anchor").exit_code == 0
        write(service.database, range(3))
        anchoring.anchor(service.database, file)
        anchoring.anchor(service.database, file)
    assert numbers(file) == sorted(set(numbers(file)))
    assert len(numbers(file)) == 6
    checked = verify(service, file)
    assert (checked.exit_code, alarm(service.database)) == (0, None), checked.output


def test_a_rewritten_event_between_two_anchors_is_noticed_in_the_next_round(database: Database, file: Path) -> None:
    write(database, range(20))
    anchoring.anchor(database, file)
    write(database, range(9))
    tamper(
        database, lambda connection: connection.execute(sa.update(TABLE).where(TABLE.c.number == 25).values(actor="x"))
    )
    anchoring.anchor(database, file)
    assert numbers(file) == [20]
    assert "Event 25: the event was changed" in (alarm(database) or "")


@pytest.mark.parametrize("loss", ["emptied", "removed", "an older copy"])
def test_a_file_that_lost_anchors_raises_an_alarm_until_it_is_back(service: Service, file: Path, loss: str) -> None:
    database = service.database
    write(database, range(5))
    anchoring.anchor(database, file)
    older = file.read_bytes()
    write(database, range(5))
    anchoring.anchor(database, file)
    whole = file.read_bytes()

    if loss == "removed":
        file.unlink()
    else:
        file.write_bytes(older if loss == "an older copy" else b"")
    for _ in range(2):
        anchoring.anchor(database, file)
        assert not file.exists() if loss == "removed" else file.read_bytes() == (b"" if loss == "emptied" else older)
        assert "was anchored in it. Restore the file." in (alarm(database) or "")
    metrics = httpx.get(f"{service.url}/metrics", headers={"Authorization": f"Bearer {service.key_of('m')}"}).text
    assert "lirf_audit_alarm 1.0" in metrics
    [raised] = service.auditor.audit_events(action="audit.alarm_raised")
    assert (raised["actor"], raised["reason"]) == ("reconciler", alarm(database))

    file.write_bytes(whole)
    anchoring.anchor(database, file)
    assert alarm(database) is None
    assert file.read_bytes().startswith(whole)
    assert len(list(service.auditor.audit_events(action="audit.alarm_ended"))) == 1


def test_a_new_file_is_taken_once_somebody_anchored_in_it(service: Service, file: Path) -> None:
    anchoring.anchor(service.database, file)
    new = file.with_name("new")
    anchoring.anchor(service.database, new)
    assert alarm(service.database)
    assert verify(service, new, "anchor").exit_code == 0
    write(service.database, range(3))
    anchoring.anchor(service.database, new)
    assert alarm(service.database) is None
    assert len(numbers(new)) == 2


def test_a_head_without_its_event_is_not_anchored(database: Database, file: Path) -> None:
    write(database, range(9))
    anchoring.anchor(database, file)
    tamper(database, lambda connection: connection.execute(sa.update(AuditHeadRow).values(number=12)))
    anchoring.anchor(database, file)
    assert "the chain ends here" in (alarm(database) or "")
    assert numbers(file) == [9]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no anchor"),
        ("nonsense\n", "Line 1 of the file .* is not an anchor"),
        ('{"number": 7, "digest": "%s"}\n{"number": 5, "digest": "%s"}\n', "Line 2 .* anchors event 5, but the line"),
        ('{"number": 7, "digest": "%s"}\n{"number": 7, "dig', "Line 2 .* is incomplete"),
        ('{"number": true, "digest": "%s"}\n', "is not an anchor"),
        ("[" * 100_000 + "\n", "is not an anchor"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(file: Path, content: str, message: str) -> None:
    file.write_text(content.replace("%s", "0" * 64))
    with pytest.raises(NotAnchors, match=message):
        anchors.read(file)


@on_one_database
def test_a_half_written_line_raises_an_alarm_and_is_not_written_on(database: Database, file: Path) -> None:
    write(database, range(3))
    anchoring.anchor(database, file)
    with file.open("a") as lines:
        lines.write('{"number": 9')
    torn = file.read_bytes()
    write(database, range(3))
    anchoring.anchor(database, file)
    assert "is incomplete" in (alarm(database) or "")
    assert file.read_bytes() == torn


@on_one_database
def test_a_file_that_cannot_be_written_raises_an_alarm(database: Database, file: Path) -> None:
    anchoring.anchor(database, file / "missing" / "anchors")
    assert "No such file or directory" in (alarm(database) or "")


def test_several_reconcilers_write_each_head_once_and_in_order(database: Database, file: Path) -> None:
    def rounds() -> None:
        for _ in range(8):
            write(database, range(2))
            anchoring.anchor(database, file)

    threads = [threading.Thread(target=rounds) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert numbers(file) == sorted(set(numbers(file)))
    assert numbers(file)[-1] == head(database).number == 64
    assert alarm(database) is None


def test_the_service_gives_no_head_that_does_not_continue_the_anchor(service: Service) -> None:
    newest = service.auditor.audit_head()
    assert service.auditor.audit_head(newest) == newest
    for anchor in ({**newest, "digest": "0" * 64}, {**newest, "number": newest["number"] + 1}):
        with pytest.raises(LirfError, match="Somebody changed the audit") as refused:
            service.auditor.audit_head(anchor)  # type: ignore[arg-type]
        assert (refused.value.status, refused.value.type) == (409, "urn:lirf:problem:chain-broken")
    with pytest.raises(LirfError, match="anchors"):
        service.auditor.verify_audit(anchors=[newest] * 4_001)


def test_the_reconciler_appends_anchors_to_the_anchor_file(database: Database, settings: Settings, file: Path) -> None:
    stop = threading.Event()
    write(database, range(3))
    anchored = settings.model_copy(update={"audit_anchor_file": file, "reconcile_seconds": 0.05})
    thread = threading.Thread(target=reconciler.run, args=(anchored, stop))
    thread.start()
    deadline = time.monotonic() + 60
    while not (file.exists() and numbers(file)) and time.monotonic() < deadline:
        time.sleep(0.05)
    write(database, range(1))
    while len(numbers(file)) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    stop.set()
    thread.join()
    assert numbers(file) == [3, 4]
    assert anchors.read(file)[-1] == head(database)
