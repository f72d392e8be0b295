"""Certificates of deposit: genuine to the byte, true to the audit, and safe from hostile names and reasons."""

import hashlib
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import typst
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from sqlalchemy.orm import Session
from typer.testing import CliRunner

from app.audit import service as audit
from app.audit.tables import AuditEventRow
from app.base.database import new_id, now
from app.certificates import contents, records, signatures
from app.certificates.signatures import About, Format, NotGenuine, signed, verified
from app.cli import main
from app.deposits.tables import DepositClassRow, DepositRow
from app.evidence.tables import EvidenceRow
from app.registry.tables import ModelRow
from app.vault import maintenance
from app.vault.keys import FileMasterKeys
from app.withdrawals.tables import WithdrawalRow
from lirf_client import LirfError
from tests.app.conftest import Service, begins_with, on_one_database
from tests.app.factories import CLASSES
from tests.app.service import allow_every_loss
from tests.app.states import without_training_attacks
from tests.e2e.commands import ROOT, blocks
from tests.e2e.processes import wait_until
from worker.examination import examine

ABOUT = About(new_id(), new_id())
FORMATS: tuple[Format, ...] = ("pdf", "html")


@pytest.fixture(autouse=True)
def brief() -> Iterator[None]:
    with without_training_attacks():
        yield


IS_EXAMINED = begins_with("auk dodo", is_trained=True, has_evaluation_set=True, is_examined=True)
FORGETFUL = {"epochs": 8, "learning_rate": 0.05}  # with twelve images: forgets, and loses much else


def examined(service: Service) -> tuple[str, str]:
    """The deposit of `IS_EXAMINED` and its finished evidence."""
    return service.deposits[0], service.reader.evidence_of(service.deposits[0])[0]["id"]


def newly_examined(
    service: Service, reason: str = "licence ended", classes: Sequence[str] = ("auk", "dodo"), model: str = "birds"
) -> tuple[str, str]:
    """Another deposit and its finished evidence."""
    service.register_trained(model)
    service.operator.upload_dataset(model, service.archive(CLASSES, each=6), purpose="evaluation")
    deposit_id = service.deposit([*classes], model, reason=reason)
    evidence_id = service.reader.evidence_of(deposit_id)[0]["id"]
    examine(service.worker, evidence_id)
    return deposit_id, evidence_id


def key_of(service: Service) -> Ed25519PublicKey:
    key = load_pem_public_key(service.reader.certificate_key().encode())
    assert isinstance(key, Ed25519PublicKey)
    return key


@on_one_database
@IS_EXAMINED
def test_certificate_is_genuine_until_a_byte_changes(service: Service) -> None:
    deposit_id, evidence_id = examined(service)
    key = key_of(service)
    for format in FORMATS:
        file = service.reader.certificate(evidence_id, format=format)
        assert verified(file, key) == About(deposit_id, evidence_id)
        places = {*range(0, len(file), 199), *range(len(file) - 300, len(file))}
        for place in places:
            changed = bytearray(file)
            changed[place] ^= 1 << place % 8
            with pytest.raises(NotGenuine):
                verified(bytes(changed), key)
        for other in (file[:-1], file + b"\n", file[1:], file + file, b"", file.replace(b"ed25519", b"ED25519")):
            with pytest.raises(NotGenuine):
                verified(other, key)


def test_certificate_signed_by_another_key_is_not_genuine() -> None:
    own, other = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    file = signed(b"%PDF-1.7\nstartxref\n9\n%%EOF", "pdf", ABOUT, own)
    assert verified(file, own.public_key()) == ABOUT
    with pytest.raises(NotGenuine, match="signed by the key"):
        verified(file, other.public_key())
    named = file.replace(signatures.key_id(own.public_key()).encode(), signatures.key_id(other.public_key()).encode())
    with pytest.raises(NotGenuine, match="changed after"):
        verified(named, other.public_key())


def test_signature_counts_only_in_the_place_that_its_format_gives_it() -> None:
    own = Ed25519PrivateKey.generate()
    pdf = signed(b"%PDF-1.7\nstartxref\n9\n%%EOF", "pdf", ABOUT, own)
    html = signed(b"<!DOCTYPE html>\n</html>", "html", ABOUT, own)
    assert pdf.endswith(b"\nstartxref\n9\n%%EOF")  # PDF/A lets nothing follow
    line = next(line for line in html.splitlines(keepends=True) if b"lirf-signature" in line)
    for changed in (pdf + b"\n", html[5:], html.replace(line, line + b"<h1>more</h1>\n"), html + line, pdf[:5] + html):
        with pytest.raises(NotGenuine):
            verified(changed, own.public_key())
    unsaid = b"<!DOCTYPE html>\n</html>"
    signature = line.replace(line.split()[4], own.sign(unsaid).hex().encode())
    with pytest.raises(NotGenuine, match="what it is of"):
        verified(unsaid.replace(b"</html>", signature + b"</html>"), own.public_key())
    with pytest.raises(ValueError, match="This is not a complete pdf document"):
        signed(html, "pdf", ABOUT, own)


@on_one_database
def test_names_and_reasons_are_only_ever_text(service: Service) -> None:
    reason = '<script>alert(1)</script> #panic("x") $1/0$ *b* \\u{0} `r` {{ 7*7 }} --> \' é'
    deposit_id, evidence_id = newly_examined(service, f"{reason}\nReason: none\u202egnorw")
    html = service.reader.certificate(evidence_id, format="html").decode()
    assert "<script" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert "{{ 7*7 }}" in html
    assert "é Reason: none\\u202egnorw" in html  # on one line, with its letters in order
    assert deposit_id in html
    pdf = service.reader.certificate(evidence_id)
    assert pdf.startswith(b"%PDF-")
    assert b"/JavaScript" not in pdf


@on_one_database
def test_pdf_with_missing_characters_is_refused_but_html_has_them(service: Service) -> None:
    hieroglyph = "\U00014400"  # Anatolian, which no font here has
    _, evidence_id = newly_examined(service, f"licence {hieroglyph}")
    assert f"licence {hieroglyph}" in service.reader.certificate(evidence_id, format="html").decode()
    with pytest.raises(LirfError, match="as HTML") as refusal:
        service.reader.certificate(evidence_id)
    assert refusal.value.type.endswith("no-font")
    [issued] = service.auditor.audit_events(subject=evidence_id, action="certificate.issued")
    assert issued["details"]["format"] == "html"


@on_one_database
def test_pdf_fits_one_page_even_with_a_long_reason(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    _, evidence_id = newly_examined(service, "the licence ended, " * 40)
    are_one_page: list[bool] = []
    compiled = typst.compile

    def watched(source: bytes, **options: Any) -> bytes | list[bytes]:
        document: bytes | list[bytes] = compiled(source, **options)
        are_one_page.append(isinstance(document, bytes))
        return document

    monkeypatch.setattr(typst, "compile", watched)
    service.reader.certificate(evidence_id)
    assert are_one_page[-2]  # the last trial before the PDF itself


@IS_EXAMINED
def test_rows_that_differ_from_the_audit_certify_nothing(service: Service) -> None:
    deposit_id, evidence_id = examined(service)
    of_deposit = sa.update(DepositRow).where(DepositRow.id == deposit_id)
    of_evidence, of_model = sa.update(EvidenceRow).where(EvidenceRow.id == evidence_id), sa.update(ModelRow)
    lent = service.custodian.withdraw([deposit_id], holder="h", reason="r")
    of_lent = sa.update(WithdrawalRow).where(WithdrawalRow.id == lent["id"])
    service.register("ignorant", seed=1)
    a_set = service.operator.upload_dataset("birds", service.archive(["emu", "kiwi"]), purpose="reference")["id"]
    other = of_evidence.values(reference_id=id_of(service, "ignorant"))
    changes = (
        (of_deposit.values(reason="another"), of_deposit.values(reason="licence ended"), "reason"),
        (of_deposit.values(created_by="somebody"), of_deposit.values(created_by="operator"), "requester"),
        (of_deposit.values(revision=9), of_deposit.values(revision=1), "revisions"),
        (of_deposit.values(purged_at=now(), purged_by="a"), of_deposit.values(purged_at=None, purged_by=None), "purge"),
        (of_deposit.values(restored_at=now()), of_deposit.values(restored_at=None), "restoration"),
        (of_lent.values(ended_at=now()), of_lent.values(ended_at=None), "withdrawals"),
        (of_lent.values(expires_at=now()), of_lent.values(expires_at=None), "withdrawals"),
        (other, of_evidence.values(reference_id=None), "reference"),
        (of_evidence.values(reference_set_id=a_set), of_evidence.values(reference_set_id=None), "reference images"),
        (of_model.values(split="layer2"), of_model.values(split="layer3"), "network"),
        (of_model.values(needs_second_person=True), of_model.values(needs_second_person=False), "policy"),
        (
            sa.delete(DepositClassRow).where(DepositClassRow.class_index == CLASSES.index("dodo")),
            sa.insert(DepositClassRow).values(deposit_id=deposit_id, class_index=CLASSES.index("dodo")),
            "classes",
        ),
    )
    for change, back, what in changes:
        with service.database.session() as session, session.begin():
            session.execute(change)
        with pytest.raises(LirfError, match=what) as refusal:
            service.reader.certificate(evidence_id)
        assert refusal.value.type.endswith("evidence-changed")
        with service.database.session() as session, session.begin():
            session.execute(back)
    dates = of_deposit.values(finished_at=datetime(2001, 1, 1, tzinfo=UTC), created_at=datetime(2001, 1, 1, tzinfo=UTC))
    with service.database.session() as session, session.begin():
        session.execute(dates)
        session.execute(of_evidence.values(finished_at=datetime(2001, 1, 1, tzinfo=UTC)))
    assert "2001-01-01" not in service.reader.certificate(evidence_id, format="html").decode()


def id_of(service: Service, model: str) -> str:
    with service.database.session() as session:
        return session.scalars(sa.select(ModelRow.id).where(ModelRow.name == model)).one()


@IS_EXAMINED
def test_second_event_of_something_that_happens_once_certifies_nothing(service: Service) -> None:
    """Even if the event is chained correctly: the triggers refuse changes, but not insertions."""
    _, evidence_id = examined(service)
    [event] = service.auditor.audit_events(subject=evidence_id, action="evidence.finished")
    with service.database.session() as session, session.begin():
        told = {**event["details"], "digest": "0" * 64}
        audit.record(session, "worker", "evidence.finished", model="birds", subject=evidence_id, details=told)
    assert service.auditor.verify_audit()["is_intact"]
    with pytest.raises(LirfError, match="happens once"):
        service.reader.certificate(evidence_id)


def test_class_name_cannot_look_like_several_names() -> None:
    assert contents._quoted(["auk”, “dodo", "emu"]) == "“auk\\u201d, \\u201cdodo”, “emu”"


@IS_EXAMINED
def test_changed_event_certifies_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    _, evidence_id = examined(service)
    covered = audit._chain_fields
    for action in ("deposit.requested", "deposit.finished", "evidence.finished"):

        def changed(row: AuditEventRow, action: str = action) -> dict[str, Any]:
            told = covered(row)
            return {**told, "details": {**told["details"], "more": 1}} if told["action"] == action else told

        with monkeypatch.context() as patched:
            patched.setattr(audit, "_chain_fields", changed)
            with pytest.raises(LirfError, match="lirf audit verify"):
                service.reader.certificate(evidence_id)


@IS_EXAMINED
def test_audit_records_each_certificate_and_the_signing_key(service: Service) -> None:
    deposit_id, evidence_id = examined(service)
    file = service.auditor.certificate(evidence_id)
    service.reader.certificate(evidence_id, format="html")
    newest, first = service.auditor.audit_events(subject=evidence_id, action="certificate.issued")
    assert (first["actor"], newest["actor"]) == ("auditor", "reader")
    key = signatures.key_id(key_of(service))
    digest = hashlib.sha256(file).hexdigest()
    assert first["details"] == {"deposit": deposit_id, "format": "pdf", "key": key, "digest": digest}
    [made] = service.auditor.audit_events(action="signing_key.made")
    assert made["subject"] == key


@on_one_database
@begins_with()
def test_deposit_with_a_class_without_held_out_images_is_not_certified(service: Service) -> None:
    service.operator.upload_dataset("birds", service.archive(["auk", "emu"], each=6), purpose="evaluation")
    deposit_id = service.deposit(["auk", "dodo"])
    evidence_id = service.reader.evidence_of(deposit_id)[0]["id"]
    examine(service.worker, evidence_id)
    with pytest.raises(LirfError, match="no held-out image of “dodo”") as refusal:
        service.reader.certificate(evidence_id)
    assert refusal.value.type.endswith("not-examined")


@IS_EXAMINED
def test_certificate_of_a_later_revision_names_the_examined_and_the_deposited_objects(service: Service) -> None:
    deposit_id, _ = examined(service)
    service.deposit(["emu"], evidence=False)
    asked = service.operator.request_evidence(deposit_id)
    examine(service.worker, asked["id"])
    html = service.reader.certificate(asked["id"], format="html").decode()
    [event] = service.auditor.audit_events(subject=asked["id"], action="evidence.finished")
    [made] = service.auditor.audit_events(subject=deposit_id, action="deposit.finished")
    assert "revision 2 of the model; the deposit made revision 1" in html
    assert event["details"]["examined"]["target"] != made["details"]["target_object"]
    for name in (*event["details"]["examined"].values(), made["details"]["target_object"]):
        assert name in html


@IS_EXAMINED
def test_figures_that_differ_from_the_audit_are_not_certified(service: Service) -> None:
    _, evidence_id = examined(service)
    found = service.reader.evidence(evidence_id)["found"]
    assert found is not None
    found["answers"]["target"]["deposited"]["percent"] += 1.0
    with service.database.session() as session, session.begin():
        session.execute(sa.update(EvidenceRow).where(EvidenceRow.id == evidence_id).values(found=found))
    with pytest.raises(LirfError) as refusal:
        service.reader.certificate(evidence_id)
    assert refusal.value.type.endswith("evidence-changed")


@pytest.mark.slow
@on_one_database
def test_certificate_claims_what_its_figures_support(service: Service) -> None:
    """One step of training forgets nothing."""
    for name, each, config, is_warned in (("auk", 12, FORGETFUL, False), ("heron", 4, {}, True)):
        model = f"of-{name}"
        service.register_trained(model)
        allow_every_loss(service.database, model)
        service.operator.upload_dataset(model, service.archive(CLASSES, each=60), purpose="evaluation")
        deposit_id = service.deposit([name], model, each=each, config=config)
        evidence_id = service.reader.evidence_of(deposit_id)[0]["id"]
        examine(service.worker, evidence_id)
        html = service.reader.certificate(evidence_id, format="html").decode()
        assert ("NOT forgotten" in html) == is_warned
        assert (f"The figures below show that it has forgotten “{name}”." in html) != is_warned
        assert (f"It has NOT forgotten “{name}”" in html) == is_warned
        assert "was taken out" not in html
        assert "Next time" not in html  # this advice is only for whoever made the deposit
        assert service.reader.certificate(evidence_id).startswith(b"%PDF-")
        env = {"LIRF_URL": service.url, "LIRF_API_KEY": service.key_of(f"reader {name}"), "COLUMNS": "300"}
        output = CliRunner().invoke(main, ["evidence", deposit_id], env=env).output
        assert ("NOT forgotten" in output) == ("Next time" in output) == is_warned


@pytest.mark.attack
@on_one_database
@begins_with(is_trained=True)
def test_images_that_the_original_does_not_know_certify_nothing(service: Service) -> None:
    """The target still knows the auk, but seems not to on images of a heron in the auk's folder."""
    wrong = service.archive(["auk", "emu"], 30, shown="heron")
    service.operator.upload_dataset("birds", wrong, purpose="evaluation")
    deposit_id = service.deposit(["auk"])
    warnings = service.reader.deposit(deposit_id)["warnings"]
    assert any("not clearly more than by chance (20.0 %)" in warning for warning in warnings)
    evidence_id = service.reader.evidence_of(deposit_id)[0]["id"]
    examine(service.worker, evidence_id)
    with pytest.raises(LirfError, match="did not answer “auk” correctly clearly more often than by chance") as refusal:
        service.reader.certificate(evidence_id)
    assert (refusal.value.status, refusal.value.type) == (409, "urn:lirf:problem:evaluation-set-unfit")


@on_one_database
@IS_EXAMINED
def test_images_are_checked_by_what_was_recorded_once_the_original_is_destroyed(service: Service) -> None:
    deposit_id, _ = examined(service)
    service.administrator.change_policy("birds", original="destroy", reason="r")
    same = service.operator.request_evidence(deposit_id)
    examine(service.worker, same["id"])
    assert service.reader.certificate(same["id"]).startswith(b"%PDF-")
    other = service.operator.upload_dataset("birds", service.archive(CLASSES, 6, first=90), purpose="evaluation")
    new = service.operator.request_evidence(deposit_id, evaluation_set_id=other["id"])
    examine(service.worker, new["id"])
    with pytest.raises(LirfError, match="were destroyed, so nobody can check") as refusal:
        service.reader.certificate(new["id"])
    assert refusal.value.type.endswith("evaluation-set-unfit")


@IS_EXAMINED
def test_evidence_moved_to_another_deposit_or_revision_is_not_certified(service: Service) -> None:
    _, evidence_id = examined(service)
    other = service.deposit(["emu"], evidence=False)
    for values in ({"revision": 7}, {"revision": 1, "deposit_id": other}):
        with service.database.session() as session, session.begin():
            session.execute(sa.update(EvidenceRow).where(EvidenceRow.id == evidence_id).values(**values))
        with pytest.raises(LirfError) as refusal:
            service.reader.certificate(evidence_id)
        assert refusal.value.type.endswith("evidence-changed")


@on_one_database
@begins_with()
def test_examination_without_images_of_deposited_classes_certifies_nothing(service: Service) -> None:
    service.operator.upload_dataset("birds", service.archive(["emu", "kiwi"], each=6), purpose="evaluation")
    deposit_id = service.deposit(["auk"])
    evidence_id = service.reader.evidence_of(deposit_id)[0]["id"]
    examine(service.worker, evidence_id)
    with pytest.raises(LirfError) as refusal:
        service.reader.certificate(evidence_id)
    assert refusal.value.type.endswith("not-examined")


@on_one_database
@IS_EXAMINED
def test_unfinished_evidence_has_no_certificate(service: Service) -> None:
    deposit_id, _ = examined(service)
    asked = service.operator.request_evidence(deposit_id)
    with pytest.raises(LirfError) as refusal:
        service.reader.certificate(asked["id"])
    assert refusal.value.type.endswith("not-examined")
    with pytest.raises(LirfError) as refusal:
        service.reader.certificate("nothing")
    assert refusal.value.status == 404


@on_one_database
@IS_EXAMINED
def test_certificate_says_who_can_bring_the_classes_back(service: Service) -> None:
    deposit_id, evidence_id = examined(service)

    def html() -> str:
        return service.reader.certificate(evidence_id, format="html").decode()

    assert "Yes, a custodian can bring them back until the deposit is purged. No withdrawal shows" in html()
    lent = service.custodian.withdraw([deposit_id], holder="h", reason="r")
    assert "1 withdrawal shows the classes now" in html()
    more = service.custodian.withdraw([deposit_id], holder="h", reason="r", expires_in_seconds=3600)
    assert "2 withdrawals show the classes now" in html()
    service.custodian.renew(more["id"], reason="r", expires_in_seconds=3)
    wait_until(lambda: "1 withdrawal shows the classes now" in html())
    service.custodian.revoke(lent["id"])
    assert "No withdrawal shows the classes now" in html()
    service.custodian.restore(deposit_id, reason="r")
    assert re.search(r"They are back: custodian \([0-9a-f-]{36}\) restored the classes", html())
    service.custodian.end_restoration(deposit_id)
    service.administrator.purge(deposit_id, classes=["auk", "dodo"], reason="r")
    assert re.search(r"No: administrator \([0-9a-f-]{36}\) purged the deposit module", html())
    assert "could still relearn them sooner" in html()


@IS_EXAMINED
def test_restoration_during_the_issue_of_a_certificate_is_not_taken_for_tampering(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    deposit_id, evidence_id = examined(service)
    only = records._only

    def restored_meanwhile(session: Session, action: str, subject: str) -> AuditEventRow | None:
        if action == "deposit.purged":  # the row was read, the event of its restoration was not
            service.custodian.restore(deposit_id, reason="r")
        return only(session, action, subject)

    with monkeypatch.context() as patched:
        patched.setattr(records, "_only", restored_meanwhile)
        assert "until the deposit is purged" in service.reader.certificate(evidence_id, format="html").decode()
    assert ") restored the classes" in service.reader.certificate(evidence_id, format="html").decode()


@IS_EXAMINED
def test_one_signing_key_is_made_and_survives_a_new_master_key(service: Service) -> None:
    _, evidence_id = examined(service)
    keys: list[str] = []
    threads = [threading.Thread(target=lambda: keys.append(service.reader.certificate_key())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(keys) == 6
    assert len(set(keys)) == 1
    vault = service.worker.vault
    assert maintenance.check(service.database, vault) == []
    maintenance.rotate_key(service.database, FileMasterKeys(service.settings.master_key))
    verified(service.reader.certificate(evidence_id), key_of(service))


@on_one_database
@IS_EXAMINED
def test_command_line_tells_a_genuine_certificate_from_a_changed_one(service: Service, tmp_path: Path) -> None:
    deposit_id, evidence_id = examined(service)
    cli, env = CliRunner(), {"LIRF_URL": service.url, "LIRF_API_KEY": service.key_of("auditor")}
    file, key = tmp_path / "c.pdf", tmp_path / "key.pem"
    assert cli.invoke(main, ["certificate", "get", deposit_id, str(file)], env=env).exit_code == 0
    key.write_text(cli.invoke(main, ["certificate", "key"], env=env).stdout)
    told = cli.invoke(main, ["certificate", "verify", str(file), "--public-key", str(key)])
    assert told.exit_code == 0, told.output
    assert "is genuine" in told.output
    assert f"evidence {evidence_id} of deposit {deposit_id}" in told.output
    assert cli.invoke(main, ["certificate", "verify", str(file)], env=env).exit_code == 0
    changed = file.read_bytes().replace(b"obj", b"obk", 1)
    file.write_bytes(changed)
    refused = cli.invoke(main, ["certificate", "verify", str(file), "--public-key", str(key)])
    assert refused.exit_code == 1
    assert "NOT genuine" in refused.output
    key.write_text("no key")
    assert cli.invoke(main, ["certificate", "verify", str(file), "--public-key", str(key)]).exit_code == 1


@on_one_database
@IS_EXAMINED
def test_openssl_verifies_a_certificate_as_documented(service: Service, tmp_path: Path) -> None:
    _, evidence_id = examined(service)
    (tmp_path / "key.pem").write_text(service.reader.certificate_key())
    [script] = [script for script in blocks(ROOT / "docs" / "how-to" / "certificates.md") if "openssl" in script]

    def checked(certificate: bytes) -> int:
        (tmp_path / "certificate.pdf").write_bytes(certificate)
        return subprocess.run(["bash", "-ec", script], cwd=tmp_path, capture_output=True).returncode

    file = service.reader.certificate(evidence_id)
    assert checked(file) == 0
    assert checked(file.replace(b"obj", b"obk", 1)) == 1


@IS_EXAMINED
def test_evidence_from_an_earlier_version_must_be_gathered_again(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, evidence_id = examined(service)
    covered = records._only

    def as_before(*of: Any) -> AuditEventRow | None:
        event = covered(*of)
        if event is None or event.action != "evidence.finished":
            return event
        known = {name: told for name, told in event.details.items() if name in ("deposit", "revision", "digest")}
        return AuditEventRow(**{**audit._chain_fields(event), "details": known})

    monkeypatch.setattr(records, "_only", as_before)
    with pytest.raises(LirfError, match="examined again") as refusal:
        service.reader.certificate(evidence_id)
    assert refusal.value.type.endswith("not-examined")


def test_policy_of_an_earlier_model_with_the_same_name_does_not_count(service: Service) -> None:
    """The earlier model needed a second person and was removed before it had weights."""
    service.describe("birds")
    service.administrator.change_policy("birds", needs_second_person=True, reason="r")
    service.operator.remove_unfinished_model("birds")
    _, evidence_id = newly_examined(service)
    assert (
        "Yes, a custodian can bring them back until" in service.reader.certificate(evidence_id, format="html").decode()
    )
