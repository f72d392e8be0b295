"""Requests for deposits: what they must fulfil, and what becomes of their images if nobody approves them."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from sqlalchemy.orm import Session

from app.access.service import Actor
from app.audit import service as audit
from app.base.database import new_id, now
from app.base.errors import Problem
from app.datasets import service as datasets
from app.datasets.service import DatasetInUse, Purpose
from app.deposits import service as deposits
from app.deposits.groups import planned
from app.deposits.jobs import config_of
from app.deposits.ranges import demand_settings
from app.deposits.schemas import DepositCreate
from app.deposits.tables import DepositClassRow, DepositRow, Kind, State
from app.registry import service as registry
from app.second_person import service as second_person
from app.second_person.service import Act, ApprovalRow, Requester
from lirf_core.class_names import indices as indices_of
from lirf_core.class_names import normal_form
from lirf_core.enumeration import enumerated

HELD_OUT_EACH = 10  # images of each class of single images; half show how unseen images are answered, half are asked


class ClassesDiffer(Problem):
    """`classes` names other classes than the deposit set has. Upload images of exactly these classes."""

    status, slug, title = 422, "classes-differ", "The deposit set and the request name different classes"


class GroupsDiffer(Problem):
    """`groups` must name each class of the deposit set in exactly one group."""

    status, slug, title = 422, "groups-differ", "The groups are not the classes of the deposit set"


class PreservedSetUnfit(Problem):
    """The preserved set has images of a class that is deposited, or of this deposit. Upload classes that stay."""

    status, slug, title = 422, "preserved-set-unfit", "The preserved set shows a class that does not stay"


class HeldOutImagesMissing(Problem):
    """A deposit of single images needs held-out images of each of their classes: upload them as an evaluation set."""

    status, slug, title = 422, "held-out-images-missing", "There are too few held-out images of the classes"


class ModulesOutstanding(Problem):
    """Single images are deposited only while no deposit module exists, because each knows them. Purge, or wait."""

    status, slug, title = 409, "modules-outstanding", "Deposit modules know the images"


class SamplesOutstanding(Problem):
    """Single images of the class are deposited, and their module answers for the whole class. Purge it first."""

    status, slug, title = 409, "samples-outstanding", "A deposit of single images answers for the class"


class NothingPreserved(Problem):
    """The deposit would leave the model without a class to answer. Keep at least one class."""

    status, slug, title = 422, "nothing-preserved", "No class would be left"


class AlreadyDeposited(Problem):
    """A class is deposited already, or a deposit of it has not ended. Leave the class out, or wait."""

    status, slug, title = 409, "already-deposited", "A class is already deposited"


def request(session: Session, actor: Actor, model_name: str, body: DepositCreate) -> DepositRow | ApprovalRow:
    """Queue a deposit. If the model needs a second person, return a request for approval instead.

    Raises `SettingsNeedAdministrator`, `UnknownClass`, `ClassesDiffer`, `GroupsDiffer`, `AlreadyDeposited`, `Restored`,
    `NothingPreserved`, `UnknownDataset`, `DatasetShredded`, `DatasetInUse`, `PreservedSetUnfit`, `SamplesOutstanding`;
    of single images also `HeldOutImagesMissing`, `ModulesOutstanding`.
    """
    demand_settings(actor, config_of(body.config.model_dump()))
    with session.begin():
        model = registry.get_ready(session, model_name)
        checked = _checked(session, model, body)
        if model.needs_second_person:
            wish = checked.model_dump(mode="json", exclude={"reason"})
            return second_person.request_approval(session, actor, model.id, model.name, Act.DEPOSIT, wish, body.reason)
        return _queue(session, actor, model, checked, Requester.of(actor))


def request_approved(session: Session, actor: Actor, approval_id: str) -> ApprovalRow:
    """Queue a deposit that another person asked for. Raises what `request` and `second_person.approve` do."""
    with session.begin():
        approval = second_person.get(session, approval_id)
        model = registry.by_id(session, approval.model_id)
        checked = _checked(session, model, DepositCreate(**approval.wish, reason=approval.reason))
        approval = second_person.approve(session, actor, approval_id, Act.DEPOSIT, model.name)
        approval.result_id = _queue(session, actor, model, checked, Requester.of(approval)).id
    return approval


def _checked(session: Session, model: registry.ModelRow, body: DepositCreate) -> DepositCreate:
    """In the caller's transaction, under the model's lock: the request with the classes and the sets that it uses."""
    registry.lock_present(session, model.id)
    dataset = datasets.get_usable(session, model.id, body.dataset_id, Purpose.DEPOSIT)
    names = sorted(dataset.counts)
    indices = registry.class_indices(model, names)
    if body.classes is not None and registry.class_indices(model, body.classes) != indices:
        raise ClassesDiffer(
            f"The deposit set has images of {_quoted(names)}, but the request names "
            f"{_quoted(sorted(body.classes))}. Upload a deposit set with images of exactly these classes."
        )
    if body.groups is not None:
        _demand_each_once(model, body.groups, indices)
    _check_classes(session, model, indices, body.kind)
    _demand_unused(session, dataset.id)
    if body.preserved_set_id:
        _check_preserved_set(session, model, body.preserved_set_id, indices)
    if body.evaluation_set_id:
        evaluation_id: str | None = datasets.get_usable(
            session, model.id, body.evaluation_set_id, Purpose.EVALUATION
        ).id
    else:
        newest = datasets.newest_evaluation_set(session, model.id)
        evaluation_id = newest.id if newest else None
    if body.kind == Kind.SAMPLES:
        _demand_held_out(session, model, evaluation_id, names)
    return body.model_copy(update={"classes": names, "evaluation_set_id": evaluation_id})


def _demand_each_once(model: registry.ModelRow, groups: Sequence[Sequence[str]], indices: list[int]) -> None:
    """Raises `UnknownClass`, `GroupsDiffer`. indices: of the deposit set's classes."""
    named = [name for group in groups for name in group]
    grouped = registry.class_indices(model, named)
    if twice := sorted(name for name, count in Counter(map(normal_form, named)).items() if count > 1):
        raise GroupsDiffer(f"`groups` names {_quoted(twice)} more than once. Name each class in one group.")
    if missing := sorted({*indices} - {*grouped}):
        raise GroupsDiffer(
            f"The deposit set has images of {_quoted([model.class_names[i] for i in missing])}, which no group names. "
            f"Add {'it' if len(missing) == 1 else 'them'} to a group, or upload a deposit set without."
        )
    if foreign := sorted({*grouped} - {*indices}):
        raise GroupsDiffer(
            f"The groups name {_quoted([model.class_names[i] for i in foreign])}, of which the deposit set has no "
            f"images. Leave {'it' if len(foreign) == 1 else 'them'} out, or upload images."
        )


def _demand_unused(session: Session, dataset_id: str) -> None:
    """Raises `DatasetInUse`."""
    if deposits.uses_dataset(session, dataset_id):
        raise DatasetInUse(
            f"An unfinished deposit uses data set '{dataset_id}'. Wait for that deposit to end, "
            "or upload the images again."
        )


def _check_preserved_set(session: Session, model: registry.ModelRow, dataset_id: str, indices: list[int]) -> None:
    """Raises `UnknownDataset`, `DatasetShredded`, `PreservedSetUnfit`, `DatasetInUse`."""
    dataset = datasets.get_usable(session, model.id, dataset_id, Purpose.PRESERVED)
    shown = set(registry.class_indices(model, sorted(dataset.counts)))
    gone = {*indices, *registry.deposited(session, model.id), *deposits.pending_classes(session, model.id)}
    if unfit := sorted(shown & gone):
        raise PreservedSetUnfit(
            f"Preserved set '{dataset.id}' has images of {_quoted([model.class_names[i] for i in unfit])}, but a "
            "preserved set shows only classes that this deposit, and those before it, leave alone. Upload one without "
            f"{'this class' if len(unfit) == 1 else 'these classes'}."
        )
    _demand_unused(session, dataset.id)


def _demand_held_out(
    session: Session, model: registry.ModelRow, evaluation_id: str | None, names: Sequence[str]
) -> None:
    """Raises `HeldOutImagesMissing`. names: the classes of the single images."""
    counts = datasets.get(session, evaluation_id).counts if evaluation_id else {}
    if few := [f"'{name}' ({counts.get(name, 0)})" for name in names if counts.get(name, 0) < HELD_OUT_EACH]:
        raise HeldOutImagesMissing(
            "A deposit of single images makes the model answer them like images that it never saw, so it needs "
            f"at least {HELD_OUT_EACH} held-out images of each of their classes. The evaluation set has too few of "
            f"{enumerated(few)}. Upload an evaluation set with more: images of these classes that model "
            f"'{model.name}' was not trained on (`POST /v1/models/{model.name}/datasets?purpose=evaluation`)."
        )


def _queue(
    session: Session, actor: Actor, model: registry.ModelRow, checked: DepositCreate, requester: Requester
) -> DepositRow:
    """In the caller's transaction. checked: what `_checked` returned."""
    row = DepositRow(
        id=new_id(),
        model_id=model.id,
        state=State.QUEUED,
        kind=checked.kind,
        dataset_id=checked.dataset_id,
        evaluation_set_id=checked.evaluation_set_id,
        preserved_set_id=checked.preserved_set_id,
        config=checked.config.model_dump(),
        reason=checked.reason,
        keeps_dataset=checked.keep_dataset,
        keeps_preserved_set=checked.keep_preserved_set,
        wants_evidence=checked.evidence
        and checked.kind == Kind.CLASSES,  # that of samples is measured with the deposit
        created_at=now(),
        created_by=requester.name,
        rung_at=now(),
    )
    names = checked.classes or []
    session.add(row)
    session.flush()
    index = indices_of(model.class_names)
    groups: Sequence[Sequence[str]] = checked.groups or [names]
    for number, group in enumerate(groups):
        group_id = new_id() if number else None
        indices = [index[normal_form(name)] for name in group]
        session.add_all(DepositClassRow(deposit_id=row.id, class_index=one, group_id=group_id) for one in indices)
    session.flush()
    counts = datasets.get(session, row.dataset_id).counts
    details: dict[str, Any] = {"kind": row.kind, "classes": names, "images": counts, "config": row.config}
    if checked.groups and len(checked.groups) > 1:
        details["groups"] = checked.groups
        details["deposits"] = list(planned(session, row))
    if row.preserved_set_id:
        details["preserved_images"] = datasets.get(session, row.preserved_set_id).counts
    if requester.key_id != actor.key_id:
        details |= requester.details()
    audit.record(
        session,
        actor.name,
        "deposit.requested",
        model=model.name,
        subject=row.id,
        reason=checked.reason,
        details=details,
    )
    return row


def _check_classes(session: Session, model: registry.ModelRow, indices: list[int], kind: str) -> None:
    """Raises `Restored`, `AlreadyDeposited`, `NothingPreserved`, `SamplesOutstanding`, `ModulesOutstanding`."""
    names = model.class_names
    held = registry.deposited(session, model.id)
    if taken := sorted(held.keys() & set(indices)):
        for row in deposits.of_ids(session, [held[index] for index in taken]).values():
            deposits.demand_not_restored(row)
        raise AlreadyDeposited(
            f"{_quoted([names[i] for i in taken])} of model '{model.name}' {_are(taken)} already deposited."
        )
    pending = deposits.pending_classes(session, model.id)
    if taken := sorted(pending.keys() & set(indices)):
        raise AlreadyDeposited(
            f"{_quoted([names[i] for i in taken])} of model '{model.name}' {_are(taken)} in a deposit that has not "
            "ended. Wait for it or cancel it."
        )
    if kind == Kind.SAMPLES:
        _demand_no_modules(session, model)
        return
    samples = deposits.samples_of_classes(session, model.id)
    if taken := sorted(samples.keys() & set(indices)):
        these = "this class" if len(taken) == 1 else "these classes"
        raise SamplesOutstanding(
            f"Deposit '{samples[taken[0]]}' holds single images of {_quoted([names[i] for i in taken])} of model "
            f"'{model.name}'. Its module answers for all of {these}, so a "
            "withdrawal would bring back what is to be forgotten now. Purge that deposit first."
        )
    switched_off = {index for index, row in pending.items() if row.kind == Kind.CLASSES}
    if len(held.keys() | switched_off | set(indices)) == len(names):
        raise NothingPreserved(
            f"After this deposit, model '{model.name}' would have no class left to answer with. Leave at least one, or "
            f"remove the model (`lirf remove {model.name}`)."
        )


def _demand_no_modules(session: Session, model: registry.ModelRow) -> None:
    """Raises `ModulesOutstanding`."""
    unfinished = {row.id for row in deposits.pending_classes(session, model.id).values()}
    if known := [*deposits.outstanding(session, model.id), *sorted(unfinished)]:
        raise ModulesOutstanding(
            f"Model '{model.name}' has other deposits: {enumerated(known, 10)}. A deposit module is made from "
            "the network of its time, so it knows the images, and a withdrawal would show that the model was trained "
            "on them. Wait for deposits that have not ended, or cancel them, and purge the others."
        )


def _quoted(names: Sequence[str]) -> str:
    return enumerated([f"'{name}'" for name in names])


def _are(items: Sequence[int]) -> str:
    return "is" if len(items) == 1 else "are"
