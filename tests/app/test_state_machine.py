"""Any requests in any order: the service does what a simple model of it predicts, and nothing else.

Hypothesis chooses the steps. After each step, two replicas answer with exactly the classes that should answer, and the
same modules give the same answer to the last bit. At the end, the audit has an event for each change, and the vault has
every module.
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
from worker.rebase import rebase_model

EXAMPLES = dose(30, 500) // (2 if POSTGRESQL else 1)  # on each database
STEPS = dose(30, 50)
REASON = "the state machine wants it"
CONFIG = {"epochs": 1, "batch_size": 4, "proxies": 0, "lambda_fp": 0}
SOME = st.integers(0, 10**6)  # selects an item of a list: the remainder is its index
NAMES = st.sets(st.sampled_from(CLASSES), min_size=1, max_size=2)
NUMBERS = count()


@dataclass
class ExpectedDeposit:
    """What a deposit should be. groups: of the job, if it makes several deposits.

    knows: the deposits whose classes its module in use still knows.
    """

    classes: list[str]
    state: str = "queued"
    is_restored: bool = False
    groups: list[list[str]] | None = None
    knows: set[str] = field(default_factory=set)


@dataclass
class Expected:
    """What should be true of one model."""

    deposits: dict[str, ExpectedDeposit] = field(default_factory=dict)
    withdrawals: dict[str, list[str]] = field(default_factory=dict)  # the deposits of each active withdrawal
    tokens: dict[str, str] = field(default_factory=dict)  # of the active withdrawals that are held
    approvals: list[Approval] = field(default_factory=list)  # requests that nobody has decided on
    needs_second_person: bool = False
    revision: int = 0
    events: Counter[str] = field(default_factory=Counter)

    def classes_in(self, *states: str) -> list[str]:
        return [name for deposit in self.deposits.values() if deposit.state in states for name in deposit.classes]

    def withdrawals_for(self, holders: Iterable[str]) -> list[str]:
        """The withdrawals that answer a caller who has the tokens of these withdrawals."""
        return sorted({*(set(self.withdrawals) - set(self.tokens)), *holders})

    def deposits_for(self, holders: Iterable[str]) -> list[str]:
        """The deposits whose modules answer a caller who has the tokens of these withdrawals."""
        restored = [deposit_id for deposit_id, deposit in self.deposits.items() if deposit.is_restored]
        withdrawn = (deposit_id for name in self.withdrawals_for(holders) for deposit_id in self.withdrawals[name])
        return sorted({*restored, *withdrawn})

    def is_withdrawn(self, deposit_id: str) -> bool:
        return any(deposit_id in deposit_ids for deposit_ids in self.withdrawals.values())

    def refusals_to_deposit(self, names: Iterable[str]) -> set[str]:
        if states := {self.state_of(name) for name in names} - {"preserved"}:
            return {"restored" if state == "restored" else "already-deposited" for state in states}
        left = set(CLASSES) - set(self.classes_in("queued", "deposited", "purged")) - set(names)
        return set() if left else {"nothing-preserved"}

    def refusals_to_rebase(self, names: Iterable[str]) -> set[str]:
        outstanding = self.classes_in("deposited")
        if not outstanding or self.classes_in("queued", "purged"):
            return {"rebase-not-possible"}
        return set() if set(names) == set(outstanding) else {"images-missing", "images-differ"}

    def refusals_to_withdraw(self, deposit_ids: Iterable[str]) -> set[str]:
        return {refusal for deposit_id in deposit_ids for refusal in self._refusals_of(self.deposits[deposit_id])}

    def refusals_to_purge(self, deposit_id: str) -> set[str]:
        withdrawn = {"still-withdrawn"} if self.is_withdrawn(deposit_id) else set()
        return self.refusals_to_withdraw([deposit_id]) | withdrawn

    def _refusals_of(self, deposit: ExpectedDeposit) -> set[str]:
        if deposit.state == "purged":
            return {"module-purged"}
        if deposit.state != "deposited":
            return {"not-deposited"}
        return {"restored"} if deposit.is_restored else set()

    def state_of(self, name: str) -> str:
        for deposit_id, deposit in self.deposits.items():
            if name in deposit.classes and deposit.state in ("queued", "deposited", "purged"):
                if deposit.is_restored:
                    return "restored"
                if self.is_withdrawn(deposit_id):
                    return "withdrawn"
                return {"queued": "depositing"}.get(deposit.state, deposit.state)
        return "preserved"


def call(method: Any, *arguments: Any, **options: Any) -> tuple[str | None, Any]:
    """The problem's slug if the call was refused, and its answer otherwise."""
    try:
        return None, method(*arguments, **options)
    except LirfError as problem:
        return problem.type.removeprefix("urn:lirf:problem:"), None


class Machine(RuleBasedStateMachine):
    """One model, and everything that callers can do to it."""

    service: ClassVar[Service]
    replicas: ClassVar[list[Client]]
    second: ClassVar[Client]
    key: ClassVar[str]  # of an operator

    @initialize(deposits=st.integers(0, 2), is_guarded=st.sampled_from([False, False, True]))
    def register(self, deposits: int, is_guarded: bool) -> None:
        """A model with so many finished deposits. is_guarded: it needs a second person from now on."""
        self.model, self.expected = f"m{next(NUMBERS)}", Expected()
        self.service.register(self.model)
        self.expected.events.update(["model.registered", "model.weights_stored"])
        self.answers: dict[tuple[int, tuple[str, ...]], Any] = {}
        self.shown: dict[str, list[str]] = {}  # the classes of the data sets for rebases
        for name in CLASSES[:deposits]:
            self.request({name}, again=False, is_grouped=False)
            self.work(is_lost=False)
        if is_guarded:
            self.demand_a_second_person()

    def any_deposit(self, which: int) -> str:
        return list(self.expected.deposits)[which % len(self.expected.deposits)]

    def any_withdrawal(self, which: int) -> str:
        return list(self.expected.withdrawals)[which % len(self.expected.withdrawals)]

    def has_deposits(self) -> bool:
        return bool(self.expected.deposits)

    # Deposits.

    @rule(names=NAMES, again=st.booleans(), is_grouped=st.booleans())
    def request(self, names: set[str], again: bool, is_grouped: bool) -> None:
        expected, classes = self.expected, sorted(names)
        groups = [[name] for name in classes] if is_grouped else None
        dataset = self.service.operator.upload_dataset(self.model, self.service.archive(classes, 2))
        expected.events["dataset.stored"] += 1
        refusals = expected.refusals_to_deposit(names)
        body = {"dataset_id": dataset["id"], "reason": REASON, "config": CONFIG, "groups": groups}
        headers = {"Authorization": f"Bearer {self.key}", "Idempotency-Key": f"{self.model}-{next(NUMBERS)}"}
        url = f"{self.service.url}/v1/models/{self.model}/deposits"
        if again:  # the same idempotency key of the same client gives the same job
            deposit, repeated = [HTTP.post(url, json=body, headers=headers).json() for _ in range(2)]
            assert deposit == repeated or refusals
            refusal = deposit.get("type", "").rpartition(":")[2] or None
            if "act" in deposit:
                refusal = self.wait_for_approval(deposit)
        else:
            request = self.service.operator.request_deposit
            options = {"reason": REASON, "config": CONFIG, "groups": groups}
            refusal, deposit = self.call_or_wait(request, self.model, dataset["id"], **options)
        is_done = self.check_refusal(refusal, refusals)
        if refusal == "waits":
            return
        if not is_done:
            self.service.operator.discard_dataset(self.model, dataset["id"])
            expected.events["dataset.shredded"] += 1
        else:
            self.expect_deposit(deposit["id"], classes, groups)

    def expect_deposit(self, deposit_id: str, classes: list[str], groups: list[list[str]] | None) -> None:
        is_several = groups is not None and len(groups) > 1
        self.expected.deposits[deposit_id] = ExpectedDeposit(classes, groups=groups if is_several else None)
        self.expected.events["deposit.requested"] += 1

    def is_queued(self) -> bool:
        return bool(self.expected.classes_in("queued"))

    @precondition(is_queued)
    @rule(is_lost=st.booleans())
    def work(self, is_lost: bool) -> None:
        """A worker does a deposit. is_lost: another worker claimed it first, and was lost."""
        expected = self.expected
        deposit_id = next(name for name, deposit in expected.deposits.items() if deposit.state == "queued")
        if is_lost:
            claim(self.service, deposit_id)
            expire_lease(self.service, deposit_id)
            assert deposit_id in reconcile(self.service)
            expected.events.update(["deposit.started", "deposit.requeued"])
        self.service.work(deposit_id)
        assert self.service.reader.deposit(deposit_id)["state"] == "deposited"
        older = [deposit for deposit in expected.deposits.values() if deposit.state == "deposited"]
        made = self.made_by(deposit_id)
        expected.deposits |= made
        expected.revision += 1
        expected.events.update(["deposit.started", *["deposit.finished"] * len(made), "dataset.shredded"])
        expected.events["module.scrubbed"] += len(older) + (len(made) if len(made) > 1 else 0)
        for deposit in older:
            deposit.knows |= set(made)

    def made_by(self, job_id: str) -> dict[str, ExpectedDeposit]:
        """The deposits that a finished job should have made."""
        if (groups := self.expected.deposits[job_id].groups) is None:
            return {job_id: ExpectedDeposit(self.expected.deposits[job_id].classes, "deposited")}
        made = {one["deposit"]: one["classes"] for one in self.service.reader.deposit(job_id)["groups"]}
        assert list(made.values()) == groups
        assert next(iter(made)) == job_id
        return {name: ExpectedDeposit(classes, "deposited", knows={*made} - {name}) for name, classes in made.items()}

    @precondition(has_deposits)
    @rule(which=SOME)
    def cancel(self, which: int) -> None:
        deposit = self.expected.deposits[deposit_id := self.any_deposit(which)]
        refusal, _ = call(self.service.operator.cancel, deposit_id)
        assert refusal == (None if deposit.state in ("queued", "cancelled") else "not-cancellable")
        if deposit.state == "queued":
            deposit.state = "cancelled"
            self.expected.events.update(["deposit.cancelled", "dataset.shredded"])

    @precondition(has_deposits)
    @rule(names=NAMES, is_of_all=st.booleans())
    def rebase(self, names: set[str], is_of_all: bool) -> None:
        """is_of_all: with images of all outstanding deposits, as it should be."""
        classes = sorted((is_of_all and self.expected.classes_in("deposited")) or names)
        dataset = self.service.operator.upload_dataset(self.model, self.service.archive(classes, 2))
        self.expected.events["dataset.stored"] += 1
        self.shown[dataset["id"]] = classes
        options = {"dataset_id": dataset["id"], "reason": REASON, "config": CONFIG}
        refusal, rebase = self.call_or_wait(self.service.operator.request_rebase, self.model, **options)
        if self.check_refusal(refusal, self.expected.refusals_to_rebase(classes)):
            self.expect_rebase(rebase["id"])
        elif refusal != "waits":
            self.service.operator.discard_dataset(self.model, dataset["id"])
            self.expected.events["dataset.shredded"] += 1

    def expect_rebase(self, rebase_id: str) -> None:
        """A worker carries it out at once."""
        assert rebase_model(self.service.worker, rebase_id)
        assert self.service.reader.rebase(rebase_id)["state"] == "finished"
        outstanding = {name for name, one in self.expected.deposits.items() if one.state == "deposited"}
        for name in outstanding:
            self.expected.deposits[name].knows = outstanding - {name}
        self.expected.revision += 1
        self.expected.events.update(["rebase.requested", "rebase.started", "rebase.finished", "dataset.shredded"])

    # Deposit, withdraw, restore, purge: at once, or after a second person's approval.

    def call_or_wait(self, method: Any, *arguments: Any, **options: Any) -> tuple[str | None, Any]:
        """As `call`, or "waits" if the request needs an approval."""
        try:
            return call(method, *arguments, **options)
        except AwaitingApproval as awaiting:
            return self.wait_for_approval(awaiting.approval), None

    def wait_for_approval(self, approval: Approval) -> str:
        assert self.expected.needs_second_person
        self.expected.approvals.append(approval)
        self.expected.events["approval.requested"] += 1
        return "waits"

    def check_refusal(self, refusal: str | None, refusals: set[str]) -> bool:
        """Check that one of the refusals, if any, was given. Returns whether the request was carried out."""
        assert refusal in (refusals or {"waits" if self.expected.needs_second_person else None})
        return refusal is None

    @precondition(has_deposits)
    @rule(which=st.lists(SOME, min_size=1, max_size=3), visibility=st.sampled_from(["public", "held"]))
    def withdraw(self, which: list[int], visibility: str) -> None:
        ids = sorted({self.any_deposit(number) for number in which})
        custodian = self.service.custodian
        refusal, withdrawal = self.call_or_wait(
            custodian.withdraw, ids, holder="h", reason=REASON, visibility=visibility
        )
        if self.check_refusal(refusal, self.expected.refusals_to_withdraw(ids)):
            self.expect_withdrawal(withdrawal["id"], ids, visibility)

    def expect_withdrawal(self, withdrawal_id: str, ids: list[str], visibility: str) -> None:
        self.expected.withdrawals[withdrawal_id] = ids
        self.expected.events["withdrawal.opened"] += 1
        if visibility == "held":
            self.issue_token(withdrawal_id)

    def issue_token(self, withdrawal_id: str) -> None:
        self.expected.tokens[withdrawal_id] = self.service.custodian.withdrawal_token(withdrawal_id)
        self.expected.events["withdrawal.token_issued"] += 1

    def has_tokens(self) -> bool:
        return bool(self.expected.tokens)

    @precondition(has_tokens)
    @rule(which=SOME)
    def replace_token(self, which: int) -> None:
        withdrawal_id, old_token = list(self.expected.tokens.items())[which % len(self.expected.tokens)]
        self.issue_token(withdrawal_id)
        self.check_token_is_refused(old_token, "withdrawal-token-refused")

    def check_token_is_refused(self, token: str, slug: str) -> None:
        for replica in self.replicas:
            assert call(replica.infer, self.model, infer_request(1), tokens=[token])[0] == slug

    @precondition(has_deposits)
    @rule(which=SOME)
    def restore(self, which: int) -> None:
        deposit_id, custodian = self.any_deposit(which), self.service.custodian
        refusal, _ = self.call_or_wait(custodian.restore, deposit_id, reason=REASON)
        if self.check_refusal(refusal, self.expected.refusals_to_withdraw([deposit_id])):
            self.expect_restoration(deposit_id)

    def expect_restoration(self, deposit_id: str) -> None:
        self.expected.deposits[deposit_id].is_restored = True
        self.expected.events["deposit.restored"] += 1

    @precondition(has_deposits)
    @rule(which=SOME)
    def end_restoration(self, which: int) -> None:
        deposit = self.expected.deposits[deposit_id := self.any_deposit(which)]
        refusal, _ = call(self.service.custodian.end_restoration, deposit_id)
        assert refusal == (None if deposit.is_restored else "not-restored")
        if not refusal:
            deposit.is_restored = False
            self.expected.events["deposit.restoration_ended"] += 1

    @precondition(has_deposits)
    @rule(which=SOME)
    def purge(self, which: int) -> None:
        deposit_id, administrator = self.any_deposit(which), self.service.administrator
        classes = self.expected.deposits[deposit_id].classes
        refusal, purged = self.call_or_wait(administrator.purge, deposit_id, classes=classes, reason=REASON)
        if self.check_refusal(refusal, self.expected.refusals_to_purge(deposit_id)):
            assert set(purged["scrubbed"]) == self.expect_purge(deposit_id)

    def expect_purge(self, deposit_id: str) -> set[str]:
        """Returns the deposits whose module knew the purged classes, so that another one is in use now."""
        self.expected.deposits[deposit_id].state = "purged"
        self.expected.events["deposit.purged"] += 1
        replaced = {
            name
            for name, deposit in self.expected.deposits.items()
            if deposit.state == "deposited" and deposit_id in deposit.knows
        }
        for name in replaced:
            self.expected.deposits[name].knows = set()
        self.answers = {key: answer for key, answer in self.answers.items() if replaced.isdisjoint(key[1])}
        return replaced

    def is_much_done(self) -> bool:
        return not self.expected.needs_second_person and sum(self.expected.events.values()) > 20

    @precondition(is_much_done)
    @rule()
    def demand_a_second_person(self) -> None:
        self.service.administrator.change_policy(self.model, reason=REASON, needs_second_person=True)
        self.expected.events["model.policy_changed"] += 1
        self.expected.needs_second_person = True

    def has_approvals(self) -> bool:
        return bool(self.expected.approvals)

    @precondition(has_approvals)
    @rule(which=SOME)
    def approve(self, which: int) -> None:
        expected = self.expected
        approval = expected.approvals[which % len(expected.approvals)]
        act, wish = approval["act"], approval["wish"]
        requester = self.service.administrator if act == "purge" else self.service.custodian
        assert call(requester.approve, approval["id"])[0] is not None
        ids = wish["deposits"] if act == "withdraw" else [wish["deposit"]] if "deposit" in wish else []
        if act == "deposit":
            refusals = expected.refusals_to_deposit(wish["classes"])
        elif act == "rebase":
            refusals = expected.refusals_to_rebase(self.shown[wish["dataset_id"]])
        else:
            refusals = expected.refusals_to_purge(ids[0]) if act == "purge" else expected.refusals_to_withdraw(ids)
        refusal, approved = call(self.second.approve, approval["id"])
        assert refusal in (refusals or {None})
        if refusal:
            return
        expected.approvals.remove(approval)
        expected.events["approval.approved"] += 1
        if act == "deposit":
            self.expect_deposit(approved["result_id"], wish["classes"], wish["groups"])
        elif act == "rebase":
            self.expect_rebase(approved["result_id"])
        elif act == "withdraw":
            self.expect_withdrawal(approved["result_id"], ids, wish["visibility"])
        elif act == "restore":
            self.expect_restoration(ids[0])
        else:
            self.expect_purge(ids[0])
        assert call(self.second.approve, approval["id"])[0] is not None  # an approval counts once

    @precondition(has_approvals)
    @rule(which=SOME)
    def refuse(self, which: int) -> None:
        approval = self.expected.approvals.pop(which % len(self.expected.approvals))
        self.second.refuse(approval["id"], reason=REASON)
        self.expected.events["approval.refused"] += 1
        if approval["act"] in ("deposit", "rebase"):
            self.expected.events["dataset.shredded"] += 1

    # Ends of withdrawals.

    def has_withdrawals(self) -> bool:
        return bool(self.expected.withdrawals)

    @precondition(has_withdrawals)
    @rule(which=SOME)
    def revoke(self, which: int) -> None:
        withdrawal_id = self.any_withdrawal(which)
        self.service.custodian.revoke(withdrawal_id)
        self.end(withdrawal_id, "withdrawal.revoked")
        assert call(self.service.custodian.revoke, withdrawal_id)[0] == "withdrawal-ended"

    @precondition(has_withdrawals)
    @rule(which=SOME)
    def expire(self, which: int) -> None:
        """A withdrawal expires, and the reconciler records that once."""
        withdrawal_id = self.any_withdrawal(which)
        with self.service.database.session() as session, session.begin():
            update = sa.update(WithdrawalRow).where(WithdrawalRow.id == withdrawal_id)
            session.execute(update.values(expires_at=now() - timedelta(seconds=1)))
        with self.service.database.session() as session:
            assert [withdrawals.end_expired(session) for _ in range(2)] == [1, 0]
        self.end(withdrawal_id, "withdrawal.expired")

    def end(self, withdrawal_id: str, action: str) -> None:
        del self.expected.withdrawals[withdrawal_id]
        self.expected.events[action] += 1
        if token := self.expected.tokens.pop(withdrawal_id, None):
            self.check_token_is_refused(token, "withdrawal-ended")

    # Steps that change nothing.

    @precondition(has_deposits)
    @rule(is_of_keys=st.booleans())
    def maintain(self, is_of_keys: bool) -> None:
        """Rotate the master key, or collect the vault's garbage."""
        if is_of_keys:
            maintenance.rotate_key(self.service.database, FileMasterKeys(self.service.settings.master_key))
        else:
            maintenance.gc(self.service.database, self.service.worker.vault, timedelta(0))

    # Invariants.

    @invariant()
    def classes_are_in_their_states(self) -> None:
        states = {label["name"]: label["state"] for label in self.service.auditor.classes(self.model)}
        assert states == {name: self.expected.state_of(name) for name in CLASSES}

    @invariant()
    def replicas_answer_with_what_should_answer(self) -> None:
        held = list(self.expected.tokens)
        for holders in {(), tuple(held[:1]), tuple(held)}:
            self.check_answers(holders)

    def check_answers(self, holders: tuple[str, ...]) -> None:
        """Check both replicas' answers to a caller who has the tokens of these withdrawals."""
        expected, deposit_ids = self.expected, self.expected.deposits_for(holders)
        answering = [name for deposit_id in deposit_ids for name in expected.deposits[deposit_id].classes]
        masked = set(expected.classes_in("deposited", "purged")) - set(answering)
        parameters = {"revision": expected.revision, "withdrawals": expected.withdrawals_for(holders)}
        for replica in self.replicas:
            tokens = [expected.tokens[withdrawal_id] for withdrawal_id in holders]
            answer = replica.infer(self.model, infer_request(1), tokens=tokens)
            assert answer["parameters"] == parameters
            probabilities = next(output["data"] for output in answer["outputs"] if output["name"] == "probabilities")
            classes = {name for name, probability in zip(CLASSES, probabilities, strict=True) if probability > 0}
            assert classes == set(CLASSES) - masked
            first = self.answers.setdefault((expected.revision, tuple(deposit_ids)), answer["outputs"])
            assert answer["outputs"] == first

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        events = Counter(event["action"] for event in self.service.auditor.audit_events(model=self.model))
        for deposit_id, deposit in self.expected.deposits.items():
            if deposit.state == "queued":  # a rebase of the next model would wait for it
                self.service.operator.cancel(deposit_id)
        assert events == +self.expected.events
        assert self.service.auditor.verify_audit()["is_intact"]


@pytest.mark.timeout(3600)
@pytest.mark.attack
def test_the_service_does_what_its_simple_model_predicts(service: Service) -> None:
    with started(service.settings) as (url, _):
        key = service.key_of("app")
        replicas = [Client(service.url, key), Client(url, key)]
        second = Client(url, service.key_of("second", Role.ADMINISTRATOR))
        operator = service.key_of("machine", Role.OPERATOR)
        parts = {"service": service, "replicas": replicas, "second": second, "key": operator}
        machine = type("ThisMachine", (Machine,), parts)
        steps = hypothesis_settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, derandomize=True, database=None
        )
        run_state_machine_as_test(machine, settings=steps)
        for client in (*replicas, second):
            client.close()
    findings = maintenance.check(service.database, service.worker.vault)  # of all models
    assert not [finding for finding in findings if finding.is_loss]
