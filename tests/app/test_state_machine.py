"""Whatever is asked for, in whatever order: the service does what a few lines of bookkeeping say, and nothing else.

Hypothesis chooses the steps. After each one two replicas answer with exactly the classes that should answer, to the
last bit as before for the same modules; at the end the audit has a row for each change, and the vault every module.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import count
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from app.access.service import Role
from app.base.database import now
from app.vault import maintenance
from app.vault.keys import FileMasterKeys
from app.withdrawals import service as withdrawals
from app.withdrawals.tables import WithdrawalRow
from lirf_client import Approval, AwaitingApproval, Client, LirfError
from tests.app.conftest import HTTP, POSTGRESQL, Service, started
from tests.app.factories import CLASSES, infer_request
from tests.app.test_jobs import claim, expire_lease, reconcile
from tests.doses import dose

EXAMPLES = dose(50, 500) // (2 if POSTGRESQL else 1)  # on each database
STEPS = dose(30, 50)
REASON = "the machine wants it"
SOME = st.integers(0, 10**6)  # of what there is, by its remainder
NAMES = st.sets(st.sampled_from(CLASSES), min_size=1, max_size=2)
NUMBERS = count()


@dataclass
class Deposited:
    """What the bookkeeping knows of a deposit."""

    classes: list[str]
    state: str = "queued"
    is_restored: bool = False


@dataclass
class Books:
    """What should be, of one model."""

    deposits: dict[str, Deposited] = field(default_factory=dict)
    lent: dict[str, list[str]] = field(default_factory=dict)  # deposits of the withdrawals that hold
    tokens: dict[str, str] = field(default_factory=dict)  # of those among them that are held
    waiting: list[Approval] = field(default_factory=list)
    needs_second_person: bool = False
    revision: int = 0
    events: Counter[str] = field(default_factory=Counter)

    def classes_in(self, *states: str) -> list[str]:
        return [name for one in self.deposits.values() if one.state in states for name in one.classes]

    def shown(self, presented: Iterable[str]) -> list[str]:
        """Withdrawals that take part in the answers to who presents the tokens of these."""
        return sorted({*(set(self.lent) - set(self.tokens)), *presented})

    def answering(self, presented: Iterable[str]) -> list[str]:
        """Deposits whose modules take part in the answers to who presents the tokens of these withdrawals."""
        restored = [deposit_id for deposit_id, one in self.deposits.items() if one.is_restored]
        lent = (deposit_id for withdrawal in self.shown(presented) for deposit_id in self.lent[withdrawal])
        return sorted({*restored, *lent})

    def refusals_to_lend(self, deposit_ids: Iterable[str]) -> set[str]:
        return {refusal for one in deposit_ids for refusal in self._refusals_of(self.deposits[one])}

    def refusals_to_purge(self, deposit_id: str) -> set[str]:
        lent = any(deposit_id in of for of in self.lent.values())
        return self.refusals_to_lend([deposit_id]) | ({"still-withdrawn"} if lent else set())

    def _refusals_of(self, one: Deposited) -> set[str]:
        if one.state == "purged":
            return {"module-purged"}
        if one.state != "deposited":
            return {"not-deposited"}
        return {"restored"} if one.is_restored else set()

    def state_of(self, name: str) -> str:
        for deposit_id, one in self.deposits.items():
            if name in one.classes and one.state in ("queued", "deposited", "purged"):
                if one.is_restored:
                    return "restored"
                if any(deposit_id in of for of in self.lent.values()):
                    return "withdrawn"
                return {"queued": "depositing"}.get(one.state, one.state)
        return "preserved"


def refusal_of(act: Any, *arguments: Any, **options: Any) -> tuple[str | None, Any]:
    """The problem's slug where it was refused, and what it answered."""
    try:
        return None, act(*arguments, **options)
    except LirfError as refused:
        return refused.type.removeprefix("urn:lirf:problem:"), None


class Machine(RuleBasedStateMachine):
    """One model, and all that can be done to it."""

    service: ClassVar[Service]
    replicas: ClassVar[list[Client]]
    second: ClassVar[Client]

    @initialize()
    def register(self) -> None:
        self.model, self.books = f"m{next(NUMBERS)}", Books()
        self.service.register(self.model)
        self.books.events.update(["model.registered", "model.weights_stored"])
        self.answers: dict[tuple[int, tuple[str, ...]], Any] = {}

    def any_deposit(self, which: int) -> str:
        return list(self.books.deposits)[which % len(self.books.deposits)]

    def has_deposits(self) -> bool:
        return bool(self.books.deposits)

    # Deposits.

    @rule(names=NAMES, again=st.booleans())
    def request(self, names: set[str], again: bool) -> None:
        books, wanted = self.books, sorted(names)
        dataset = self.service.operator.upload_dataset(self.model, self.service.archive(wanted, 2))
        books.events["dataset.stored"] += 1
        expected = set()
        if taken := [name for name in wanted if books.state_of(name) != "preserved"]:
            expected = {"restored" if books.state_of(name) == "restored" else "already-deposited" for name in taken}
        elif len(set(books.classes_in("queued", "deposited", "purged")) | names) == len(CLASSES):
            expected = {"nothing-preserved"}
        config = {"epochs": 1, "batch_size": 4, "proxies": 0, "lambda_fp": 0}
        body = {"dataset_id": dataset["id"], "reason": REASON, "config": config}
        key = self.service.key_of("machine", Role.OPERATOR) if again else ""
        send = {"Authorization": f"Bearer {key}", "Idempotency-Key": "once"}
        url = f"{self.service.url}/v1/models/{self.model}/deposits"
        if again:  # the same key of the same client: the same job
            told = [HTTP.post(url, json=body, headers=send).json() for _ in range(2)]
            assert told[0] == told[1] or expected
            found, refusal = told[0], told[0].get("type", "").rpartition(":")[2] or None
        else:
            refusal, found = refusal_of(
                self.service.operator.request_deposit, self.model, dataset["id"], reason=REASON, config=config
            )
        assert refusal in (expected or {None})
        if refusal:
            self.service.operator.discard_dataset(self.model, dataset["id"])
            books.events["dataset.shredded"] += 1
        else:
            books.deposits[found["id"]] = Deposited(wanted)
            books.events["deposit.requested"] += 1

    def is_queued(self) -> bool:
        return bool(self.books.classes_in("queued"))

    @precondition(is_queued)
    @rule(is_lost=st.booleans())
    def work(self, is_lost: bool) -> None:
        """By a worker; with is_lost, after another one that was not heard of again."""
        books = self.books
        deposit_id = next(name for name, one in books.deposits.items() if one.state == "queued")
        if is_lost:
            claim(self.service, deposit_id)
            expire_lease(self.service, deposit_id)
            assert deposit_id in reconcile(self.service)
            books.events.update(["deposit.started", "deposit.requeued"])
        self.service.work(deposit_id)
        assert self.service.reader.deposit(deposit_id)["state"] == "deposited"
        older = [one for one in books.deposits.values() if one.state == "deposited"]
        books.deposits[deposit_id].state = "deposited"
        books.revision += 1
        books.events.update(["deposit.started", "deposit.finished", "dataset.shredded"])
        books.events["module.scrubbed"] += len(older)

    @precondition(has_deposits)
    @rule(which=SOME)
    def cancel(self, which: int) -> None:
        one = self.books.deposits[deposit_id := self.any_deposit(which)]
        refusal, _ = refusal_of(self.service.operator.cancel, deposit_id)
        assert refusal == (None if one.state in ("queued", "cancelled") else "not-cancellable")
        if one.state == "queued":
            one.state = "cancelled"
            self.books.events.update(["deposit.cancelled", "dataset.shredded"])

    # Withdraw, restore, purge: at once, or by a second person.

    def wish(self, act: Any, *arguments: Any, **options: Any) -> tuple[str | None, Any]:
        try:
            return refusal_of(act, *arguments, **options)
        except AwaitingApproval as awaiting:
            assert self.books.needs_second_person
            self.books.waiting.append(awaiting.approval)
            self.books.events["approval.requested"] += 1
            return "waits", None

    def expect(self, refusal: str | None, refusals: set[str]) -> bool:
        """Whether it is done."""
        assert refusal in (refusals or {"waits" if self.books.needs_second_person else None})
        return refusal is None

    @precondition(has_deposits)
    @rule(which=st.lists(SOME, min_size=1, max_size=3), visibility=st.sampled_from(["public", "held"]))
    def withdraw(self, which: list[int], visibility: str) -> None:
        ids = sorted({self.any_deposit(one) for one in which})
        custodian = self.service.custodian
        refusal, lent = self.wish(custodian.withdraw, ids, holder="h", reason=REASON, visibility=visibility)
        if self.expect(refusal, self.books.refusals_to_lend(ids)):
            self.opened(lent["id"], ids, visibility)

    def opened(self, withdrawal_id: str, ids: list[str], visibility: str) -> None:
        self.books.lent[withdrawal_id] = ids
        self.books.events["withdrawal.opened"] += 1
        if visibility == "held":
            self.issue_token(withdrawal_id)

    def issue_token(self, withdrawal_id: str) -> None:
        self.books.tokens[withdrawal_id] = self.service.custodian.withdrawal_token(withdrawal_id)
        self.books.events["withdrawal.token_issued"] += 1

    def holds(self) -> bool:
        return bool(self.books.tokens)

    @precondition(holds)
    @rule(which=SOME)
    def replace_token(self, which: int) -> None:
        withdrawal_id, before = list(self.books.tokens.items())[which % len(self.books.tokens)]
        self.issue_token(withdrawal_id)
        self.is_refused(before, "withdrawal-token-refused")

    def is_refused(self, token: str, slug: str) -> None:
        for replica in self.replicas:
            assert refusal_of(replica.infer, self.model, infer_request(1), tokens=[token])[0] == slug

    @precondition(has_deposits)
    @rule(which=SOME)
    def restore(self, which: int) -> None:
        deposit_id, custodian = self.any_deposit(which), self.service.custodian
        refusal, _ = self.wish(custodian.restore, deposit_id, reason=REASON)
        if self.expect(refusal, self.books.refusals_to_lend([deposit_id])):
            self.restored(deposit_id)

    def restored(self, deposit_id: str) -> None:
        self.books.deposits[deposit_id].is_restored = True
        self.books.events["deposit.restored"] += 1

    @precondition(has_deposits)
    @rule(which=SOME)
    def end_restoration(self, which: int) -> None:
        one = self.books.deposits[deposit_id := self.any_deposit(which)]
        refusal, _ = refusal_of(self.service.custodian.end_restoration, deposit_id)
        assert refusal == (None if one.is_restored else "not-restored")
        if not refusal:
            one.is_restored = False
            self.books.events["deposit.restoration_ended"] += 1

    @precondition(has_deposits)
    @rule(which=SOME)
    def purge(self, which: int) -> None:
        deposit_id, administrator = self.any_deposit(which), self.service.administrator
        classes = self.books.deposits[deposit_id].classes
        refusal, _ = self.wish(administrator.purge, deposit_id, classes=classes, reason=REASON)
        if self.expect(refusal, self.books.refusals_to_purge(deposit_id)):
            self.purged(deposit_id)

    def purged(self, deposit_id: str) -> None:
        self.books.deposits[deposit_id].state = "purged"
        self.books.events["deposit.purged"] += 1

    @rule()
    def demand_a_second_person(self) -> None:
        if not self.books.needs_second_person:
            self.service.administrator.change_policy(self.model, reason=REASON, needs_second_person=True)
            self.books.events["model.policy_changed"] += 1
            self.books.needs_second_person = True

    def waits(self) -> bool:
        return bool(self.books.waiting)

    @precondition(waits)
    @rule(which=SOME)
    def approve(self, which: int) -> None:
        books = self.books
        asked = books.waiting[which % len(books.waiting)]
        own = self.service.administrator if asked["act"] == "purge" else self.service.custodian
        assert refusal_of(own.approve, asked["id"])[0] is not None
        if asked["act"] == "withdraw":
            ids, refusals = asked["wish"]["deposits"], books.refusals_to_lend(asked["wish"]["deposits"])
        else:
            ids = [asked["wish"]["deposit"]]
            refusals = books.refusals_to_purge(ids[0]) if asked["act"] == "purge" else books.refusals_to_lend(ids)
        refusal, approved = refusal_of(self.second.approve, asked["id"])
        assert refusal in (refusals or {None})
        if refusal:
            return
        books.waiting.remove(asked)
        books.events["approval.approved"] += 1
        if asked["act"] == "withdraw":
            self.opened(approved["result_id"], ids, asked["wish"]["visibility"])
        elif asked["act"] == "restore":
            self.restored(ids[0])
        else:
            self.purged(ids[0])
        assert refusal_of(self.second.approve, asked["id"])[0] is not None  # once

    @precondition(waits)
    @rule(which=SOME)
    def refuse(self, which: int) -> None:
        asked = self.books.waiting.pop(which % len(self.books.waiting))
        self.second.refuse(asked["id"], reason=REASON)
        self.books.events["approval.refused"] += 1

    # Their ends.

    def lends(self) -> bool:
        return bool(self.books.lent)

    @precondition(lends)
    @rule(which=SOME)
    def revoke(self, which: int) -> None:
        withdrawal_id = list(self.books.lent)[which % len(self.books.lent)]
        self.service.custodian.revoke(withdrawal_id)
        self.end(withdrawal_id, "withdrawal.revoked")
        assert refusal_of(self.service.custodian.revoke, withdrawal_id)[0] == "withdrawal-ended"

    @precondition(lends)
    @rule(which=SOME)
    def expire(self, which: int) -> None:
        """Its time is over; the reconciler writes that down once."""
        withdrawal_id = list(self.books.lent)[which % len(self.books.lent)]
        with self.service.database.session() as session, session.begin():
            its = sa.update(WithdrawalRow).where(WithdrawalRow.id == withdrawal_id)
            session.execute(its.values(expires_at=now() - timedelta(seconds=1)))
        with self.service.database.session() as session:
            assert [withdrawals.end_expired(session) for _ in range(2)] == [1, 0]
        self.end(withdrawal_id, "withdrawal.expired")

    def end(self, withdrawal_id: str, action: str) -> None:
        del self.books.lent[withdrawal_id]
        self.books.events[action] += 1
        if token := self.books.tokens.pop(withdrawal_id, None):
            self.is_refused(token, "withdrawal-ended")

    # What changes nothing.

    @rule()
    def rotate_the_master_key(self) -> None:
        maintenance.rotate_key(self.service.database, FileMasterKeys(self.service.settings.master_key))

    @rule()
    def collect_garbage(self) -> None:
        maintenance.gc(self.service.database, self.service.worker.vault, timedelta(0))

    # What must be.

    @invariant()
    def classes_are_in_their_states(self) -> None:
        found = {one["name"]: one["state"] for one in self.service.auditor.classes(self.model)}
        assert found == {name: self.books.state_of(name) for name in CLASSES}

    @invariant()
    def replicas_answer_with_what_should_answer(self) -> None:
        held = list(self.books.tokens)
        for presented in {(), tuple(held[:1]), tuple(held)}:
            self.answer_with_what_should_answer(presented)

    def answer_with_what_should_answer(self, presented: tuple[str, ...]) -> None:
        books, answering = self.books, self.books.answering(presented)
        open_ones = [name for one in answering for name in books.deposits[one].classes]
        hidden = set(books.classes_in("deposited", "purged")) - set(open_ones)
        for replica in self.replicas:
            tokens = [books.tokens[withdrawal_id] for withdrawal_id in presented]
            answer = replica.infer(self.model, infer_request(1), tokens=tokens)
            assert answer["parameters"] == {"revision": books.revision, "withdrawals": books.shown(presented)}
            probabilities = next(one["data"] for one in answer["outputs"] if one["name"] == "probabilities")
            shown = {name for name, probability in zip(CLASSES, probabilities, strict=True) if probability > 0}
            assert shown == set(CLASSES) - hidden
            same = self.answers.setdefault((books.revision, tuple(answering)), answer["outputs"])
            assert answer["outputs"] == same

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        found = Counter(event["action"] for event in self.service.auditor.audit_events(model=self.model))
        assert found == +self.books.events
        assert self.service.auditor.verify_audit()["is_intact"]
        findings = maintenance.check(self.service.database, self.service.worker.vault)
        assert not [finding for finding in findings if finding.is_loss]


@pytest.mark.timeout(3600)
@pytest.mark.attack
def test_the_service_does_what_its_books_say(service: Service) -> None:
    with started(service.settings) as (url, _):
        key = service.key_of("app")
        replicas = [Client(service.url, key), Client(url, key)]
        second = Client(url, service.key_of("second", Role.ADMINISTRATOR))
        machine = type("ThisMachine", (Machine,), {"service": service, "replicas": replicas, "second": second})
        steps = hypothesis_settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, derandomize=True, database=None
        )
        run_state_machine_as_test(machine, settings=steps)
        for client in (*replicas, second):
            client.close()
