"""Models: registered with a description, served once they have weights, revised by deposits."""

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, BinaryIO

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from app.access.service import Actor, OutsideTrustDomain
from app.audit import service as audit
from app.base.database import new_id, now
from app.base.errors import Problem
from app.base.paging import PageRequest, newest_first
from app.base.trust_domain import EVERYWHERE
from app.registry.tables import ModelClassRow as ModelClassRow
from app.registry.tables import ModelRow as ModelRow
from app.registry.tables import RevisionRow
from app.second_person import service as second_person
from app.vault import service as vaults
from app.vault.service import Binding, Kind, StoredObject, Vault
from lirf_core import class_names
from lirf_core.architectures import ArchitectureSpec
from lirf_core.belonging import Belonging
from lirf_core.images.preprocessing import Preprocessing

if TYPE_CHECKING:
    from lirf_core.network import SplitNetwork


ANSWER_SECONDS = 0.3  # an answer leaves at most this long after the database confirmed its view


class UnknownModel(Problem):
    """No model has this name. `GET /v1/models` lists the models."""

    status, slug, title = 404, "unknown-model", "There is no such model"


class NameTaken(Problem):
    """Another model has this name. Choose another name."""

    status, slug, title = 409, "name-taken", "A model with this name exists"


class ModelRemoved(Problem):
    """An administrator removed the model with all that it knew. Its name is never used again."""

    status, slug, title = 410, "model-removed", "The model was removed"


class WeightsMissing(Problem):
    """The model is only described so far. Send its weights: `PUT /v1/models/{name}/weights`."""

    status, slug, title = 409, "weights-missing", "The model has no weights yet"


class WeightsPresent(Problem):
    """The model has weights, which are never replaced. Register another model under another name."""

    status, slug, title = 409, "weights-present", "The model already has weights"


class WeightsRefused(Problem):
    """The file is not safetensors, or a tensor's name, shape or value does not fit the architecture."""

    status, slug, title = 422, "weights-refused", "The weights cannot be used"


class UnknownClass(Problem):
    """The model has no class of this name. Class names are case-sensitive."""

    status, slug, title = 422, "unknown-class", "The model has no such class"


@dataclass(frozen=True)
class StoredNetwork:
    """A revision in the vault, ready to be opened.

    upper: its trunk. rows: the last layer's, without those of deposited classes, which lie in the deposit modules. None
    if an earlier version stored the model: then `upper` is the whole upper part, until `deposits.separation`.
    """

    upper: StoredObject
    rows: StoredObject | None
    lower: StoredObject
    belonging: Belonging
    revision: int

    @property
    def object_names(self) -> list[str]:
        """The names of its objects in the vault."""
        return [stored.name for stored in (self.upper, self.rows, self.lower) if stored]

    def open(self, vault: Vault) -> "SplitNetwork":
        """The network without deposited rows, frozen. Raises `VaultDamaged`, `DoesNotFit`, `ForeignUpperPart`."""
        from lirf_core import artifacts  # imports torch, which processes that only read rows do not need

        kept = vault.read(self.rows) if self.rows else None
        return artifacts.load_network(vault.read(self.upper), vault.read(self.lower), self.belonging, kept)


def register(
    session: Session,
    actor: Actor,
    name: str,
    spec: ArchitectureSpec,
    split: str,
    classes: list[str],
    preprocessing: Preprocessing,
) -> ModelRow:
    """Register a model by its description. Its weights follow. Raises `NameTaken`, `OutsideTrustDomain`."""
    if not actor.domain.has(name):
        raise OutsideTrustDomain(
            f"Key '{actor.name}' is bound to {actor.domain}, and '{name}' does not match. Choose a name that does."
        )
    row = ModelRow(
        id=new_id(),
        name=name,
        architecture=spec.description(),
        preprocessing=asdict(preprocessing),
        split=split,
        class_names=classes,
        generation=0,
        created_at=now(),
        created_by=actor.name,
    )
    with session.begin():
        try:
            with session.begin_nested():
                session.add(row)
        except IntegrityError:
            raise NameTaken(
                f"A model '{name}' already exists, or existed: a removed model keeps its name. Choose another name."
            ) from None
        session.add_all(ModelClassRow(model_id=row.id, class_index=i, name=label) for i, label in enumerate(classes))
        audit.record(
            session,
            actor.name,
            "model.registered",
            model=name,
            subject=row.id,
            details={"architecture": row.architecture, "split": split, "classes": len(classes)},
        )
    return row


def remove_unfinished(session: Session, actor: Actor, model: ModelRow) -> None:
    """In the caller's transaction: remove a registration that has no weights yet, and free its name."""
    assert model.revision is None
    second_person.forget_model(session, model.id)
    session.delete(model)
    audit.record(session, actor.name, "model.removed", model=model.name, subject=model.id)


def shred_networks(session: Session, model: ModelRow) -> list[str]:
    """In the caller's transaction: destroy the keys of every revision, the one in service included.

    Returns the names of vault objects to delete after the transaction.
    """
    assert model.revision is not None
    assert model.upper_object_id is not None
    _, garbage = shred_revisions_before(session, model.id, model.revision + 1)
    upper_parts = [model.upper_object_id, *([model.rows_object_id] if model.rows_object_id else [])]
    return [*garbage, *(vaults.shred(session, object_id) for object_id in upper_parts)]


def note_removal(session: Session, model: ModelRow, by: str, reason: str) -> None:
    """In the caller's transaction, which records it: no request finds the model from now on."""
    model.removed_at, model.removed_by, model.removal_reason = now(), by, reason
    session.flush()
    bump_generation(session, model.id)


def put_weights(session: Session, vault: Vault, actor: Actor, name: str, file: BinaryIO) -> ModelRow:
    """Check the weights against the architecture and store all parts. Raises `WeightsRefused`, `WeightsPresent`."""
    from lirf_core import artifacts
    from lirf_core import class_rows as last_rows
    from lirf_core.network import digest

    model = describe(session, name)
    _demand_no_weights(model)
    try:
        network = artifacts.load_original(file, spec_of(model), model.split)
    except (artifacts.NotSafetensors, artifacts.DoesNotFit) as error:
        raise WeightsRefused(
            f"The weights for model '{name}' ({model.architecture['name']}) cannot be used. {error}"
        ) from error
    belonging = Belonging(spec_of(model), model.split, digest(network.upper))
    every_row = last_rows.take(network, last_rows.present(network))
    with ExitStack() as on_error:

        def put(kind: Kind, plaintext: bytes) -> StoredObject:
            stored = vault.put(Binding(kind, model.id, model.id), [plaintext])
            on_error.enter_context(vault.discarded_on_error(stored))
            return stored

        trunk = put("trunk", artifacts.dump_trunk(network, belonging))
        rows = put("rows", artifacts.dump_rows(every_row, belonging))
        lower = put("lower", artifacts.dump_lower(network, belonging))
        with session.begin():
            lock(session, model.id)
            _demand_no_weights(model)
            model.upper_object_id, model.rows_object_id = vaults.record(session, trunk), vaults.record(session, rows)
            model.upper_digest = belonging.upper_digest
            model.revision, model.generation = 0, model.generation + 1
            lower_id = vaults.record(session, lower)
            session.add(RevisionRow(model_id=model.id, number=0, lower_object_id=lower_id, created_at=now()))
            audit.record(
                session,
                actor.name,
                "model.weights_stored",
                model=name,
                subject=model.id,
                details={
                    "upper_digest": belonging.upper_digest,
                    "upper_object": trunk.name,
                    "rows_object": rows.name,
                    "lower_object": lower.name,
                },
            )
    return model


def _demand_no_weights(model: ModelRow) -> None:
    if model.revision is not None:
        raise WeightsPresent(
            f"Model '{model.name}' already serves revision {model.revision}. Register other weights under another name."
        )


def get(session: Session, name: str) -> ModelRow:
    """The model with this name. Raises `UnknownModel`, `ModelRemoved`."""
    return _present(_named(session, name))


def locked(session: Session, name: str) -> ModelRow:
    """The model with this name, locked as in `lock`, even if it was removed. Raises `UnknownModel`."""
    return lock(session, _named(session, name).id)


def lock_present(session: Session, model_id: str) -> ModelRow:
    """Like `lock`, for what adds something to the model. Raises `ModelRemoved`."""
    return _present(lock(session, model_id))


def _present(model: ModelRow) -> ModelRow:
    if model.removed_at is not None:
        raise ModelRemoved(
            f"{model.removed_by} removed model '{model.name}' at {model.removed_at:%Y-%m-%d %H:%M} UTC. The audit "
            "still has its events. Register a successor under another name."
        )
    return model


def _named(session: Session, name: str) -> ModelRow:
    model = session.scalar(sa.select(ModelRow).where(ModelRow.name == name))
    if model is None:
        raise unknown(name)
    return model


def unknown(name: str) -> UnknownModel:
    """The error for a model that does not exist, and for one outside the caller's trust domain alike."""
    return UnknownModel(f"There is no model '{name}'. `GET /v1/models` lists the models.")


def describe(session: Session, name: str) -> ModelRow:
    """Like `get`, in a transaction of its own."""
    with session.begin():
        return get(session, name)


def by_id(session: Session, model_id: str) -> ModelRow:
    return session.get_one(ModelRow, model_id)


def name_of(session: Session, model_id: str) -> str:
    """The model's name, even if the model is outside the caller's trust domain."""
    return session.scalars(sa.select(ModelRow.name).where(ModelRow.id == model_id), execution_options=EVERYWHERE).one()


def by_ids(session: Session, model_ids: Iterable[str]) -> dict[str, ModelRow]:
    """The models with these ids, by id. Reads each one once."""
    return {model_id: by_id(session, model_id) for model_id in set(model_ids)}


def get_ready(session: Session, name: str) -> ModelRow:
    """The model with this name, which must have weights. Raises `UnknownModel`, `WeightsMissing`."""
    model = get(session, name)
    if model.revision is None:
        raise WeightsMissing(f"Model '{name}' has no weights yet. Send them with `PUT /v1/models/{name}/weights`.")
    return model


def list_models(session: Session, page: PageRequest) -> tuple[Sequence[ModelRow], str | None]:
    return newest_first(session, sa.select(ModelRow).where(ModelRow.removed_at.is_(None)), ModelRow.id, page)


def all_models(session: Session) -> Iterator[ModelRow]:
    """All models, ordered by name."""
    present = sa.select(ModelRow).where(ModelRow.removed_at.is_(None))
    yield from session.scalars(present.order_by(ModelRow.name).execution_options(yield_per=1000))


def generations(session: Session, model_ids: Collection[str]) -> dict[str, int]:
    """The generation of each of these models that exists, by id."""
    query = sa.select(ModelRow.id, ModelRow.generation).where(ModelRow.id.in_(model_ids))
    # One batch of predictions may hold requests of several trust domains.
    return dict(session.execute(query, execution_options=EVERYWHERE).all())


def lock(session: Session, model_id: str) -> ModelRow:
    """Lock the model, so that its changes happen one after the other. SQLite serialises all changes anyway.

    Returns the model's current state, which nothing else can change until the transaction ends.
    """
    query = sa.select(ModelRow).where(ModelRow.id == model_id).with_for_update()
    return session.scalars(query, execution_options={"populate_existing": True}).one()


def spec_of(model: ModelRow) -> ArchitectureSpec:
    return ArchitectureSpec(**model.architecture)


def preprocessing_of(model: ModelRow) -> Preprocessing:
    stored = model.preprocessing
    orientation = stored.get("exif_orientation", "apply")  # models that were registered before it existed have none
    return Preprocessing(stored["height"], stored["width"], tuple(stored["mean"]), tuple(stored["std"]), orientation)


def belonging_of(model: ModelRow) -> Belonging:
    assert model.upper_digest is not None
    return Belonging(spec_of(model), model.split, model.upper_digest)


def stored_network(session: Session, model: ModelRow) -> StoredNetwork:
    """The revision in service."""
    assert model.revision is not None
    return _stored_revision(session, model, session.get_one(RevisionRow, (model.id, model.revision)))


def revision_if_present(session: Session, model: ModelRow, number: int) -> StoredNetwork | None:
    """An older revision; None if it was destroyed."""
    row = session.get_one(RevisionRow, (model.id, number))
    return None if vaults.is_shredded(session, row.lower_object_id) else _stored_revision(session, model, row)


def oldest_revision(session: Session, model: ModelRow) -> StoredNetwork | None:
    """The oldest that still exists; None if that is the revision in service."""
    assert model.revision is not None
    row = next(_present_before(session, model.id, model.revision), None)
    return _stored_revision(session, model, row) if row else None


def _present_before(session: Session, model_id: str, number: int) -> Iterator[RevisionRow]:
    """The revisions before this one that still exist, oldest first."""
    query = sa.select(RevisionRow).where(RevisionRow.model_id == model_id, RevisionRow.number < number)
    for row in session.scalars(query.order_by(RevisionRow.number)).all():
        if not vaults.is_shredded(session, row.lower_object_id):
            yield row


def _stored_revision(session: Session, model: ModelRow, row: RevisionRow) -> StoredNetwork:
    assert model.upper_object_id is not None
    upper = vaults.stored_object(session, model.upper_object_id)
    rows = vaults.stored_object(session, model.rows_object_id) if model.rows_object_id else None
    lower = vaults.stored_object(session, row.lower_object_id)
    return StoredNetwork(upper, rows, lower, belonging_of(model), row.number)


def is_comparable(model: ModelRow, other: ModelRow) -> bool:
    """Whether both have the same architecture, classes and preprocessing."""
    return (
        model.architecture == other.architecture
        and list(class_names.indices(model.class_names)) == list(class_names.indices(other.class_names))
        and preprocessing_of(model) == preprocessing_of(other)
    )


def classes(session: Session, model_id: str, *, only_deposited: bool = False) -> Sequence[ModelClassRow]:
    """The model's classes in the order of its outputs."""
    query = sa.select(ModelClassRow).where(ModelClassRow.model_id == model_id).order_by(ModelClassRow.class_index)
    return session.scalars(query.where(ModelClassRow.deposit_id.is_not(None)) if only_deposited else query).all()


def deposited(session: Session, model_id: str) -> dict[int, str]:
    """The deposit that holds each deposited class, by class index."""
    return {
        row.class_index: row.deposit_id for row in classes(session, model_id, only_deposited=True) if row.deposit_id
    }


def with_deposited_classes(session: Session, model_ids: Sequence[str]) -> set[str]:
    """Those of the models of which a class is deposited."""
    is_held = ModelClassRow.model_id.in_(model_ids), ModelClassRow.deposit_id.is_not(None)
    return set(session.scalars(sa.select(ModelClassRow.model_id).where(*is_held).distinct()))


def class_indices(model: ModelRow, names: Sequence[str]) -> list[int]:
    """The indices of these classes, sorted, each once. Raises `UnknownClass`."""
    index = class_names.indices(model.class_names)
    for name in names:
        if class_names.normal_form(name) not in index:
            first = ", ".join(f"'{label}'" for label in model.class_names[:10])
            more = ", ..." if len(index) > 10 else ""
            raise UnknownClass(
                f"Model '{model.name}' has no class '{name[:100]}'. Its classes are {first}{more} ({len(index)}). "
                "Class names are case-sensitive."
            )
    return sorted({index[class_names.normal_form(name)] for name in names})


def publish_revision(
    session: Session,
    model_id: str,
    lower: StoredObject,
    rows: StoredObject,
    deposit_id: str | None,
    deposited: Mapping[str, Sequence[int]],
) -> tuple[int, str]:
    """Put a new target network into service and mark classes as deposited, in the caller's transaction.

    rows: those that the target keeps. deposit_id: what made it; None: a rebase. deposited: the classes that each
    deposit holds from now on, by its id. Returns the number of the new revision, and the name of the vault object to
    delete after the transaction: the rows that it had until now.
    """
    model = session.get_one(ModelRow, model_id)
    assert model.revision is not None
    lower_id = vaults.record(session, lower)
    model.revision, model.generation = model.revision + 1, model.generation + 1
    session.add(
        RevisionRow(
            model_id=model_id, number=model.revision, lower_object_id=lower_id, deposit_id=deposit_id, created_at=now()
        )
    )
    garbage = _replace_rows(session, model, rows)
    for held_by, classes in deposited.items():
        of_deposit = ModelClassRow.model_id == model_id, ModelClassRow.class_index.in_(classes)
        session.execute(sa.update(ModelClassRow).where(*of_deposit).values(deposit_id=held_by))
    return model.revision, garbage


@dataclass(frozen=True)
class NewBase:
    """The parts of a network in the vault that takes the place of a model's upper part and of all its revisions."""

    trunk: StoredObject
    rows: StoredObject
    lower: StoredObject
    upper_digest: str


def replace_base(session: Session, model: ModelRow, base: NewBase) -> tuple[list[int], list[str]]:
    """In the caller's transaction: a revision on a base of its own. The keys of everything older are destroyed.

    Returns the numbers of the destroyed revisions, and the names of vault objects to delete after the transaction.
    """
    assert model.revision is not None
    assert model.upper_object_id is not None
    old = [model.upper_object_id, *([model.rows_object_id] if model.rows_object_id else [])]
    destroyed, garbage = shred_revisions_before(session, model.id, model.revision + 1)
    model.upper_object_id, model.rows_object_id = vaults.record(session, base.trunk), vaults.record(session, base.rows)
    model.upper_digest = base.upper_digest
    model.revision, model.generation = model.revision + 1, model.generation + 1
    lower_id = vaults.record(session, base.lower)
    session.add(RevisionRow(model_id=model.id, number=model.revision, lower_object_id=lower_id, created_at=now()))
    session.flush()
    return destroyed, [*garbage, *(vaults.shred(session, object_id) for object_id in old)]


def with_whole_upper_part(session: Session) -> dict[str, str]:
    """The names, by id, of models whose rows an earlier version stored with the rest of the upper part."""
    is_whole = ModelRow.revision.is_not(None), ModelRow.rows_object_id.is_(None), ModelRow.removed_at.is_(None)
    query = sa.select(ModelRow.id, ModelRow.name).where(*is_whole).order_by(ModelRow.id)
    return dict(session.execute(query, execution_options=EVERYWHERE).all())


def separate_upper_part(session: Session, model: ModelRow, trunk: StoredObject, rows: StoredObject) -> list[str]:
    """In the caller's transaction: trunk and rows take the place of a whole upper part, whose key is destroyed.

    Returns the names of vault objects to delete after the transaction.
    """
    assert model.upper_object_id is not None
    assert model.rows_object_id is None
    old_id = model.upper_object_id
    model.upper_object_id, model.rows_object_id = vaults.record(session, trunk), vaults.record(session, rows)
    session.flush()
    bump_generation(session, model.id)  # so that replicas open the new objects
    return [vaults.shred(session, old_id)]


def _replace_rows(session: Session, model: ModelRow, rows: StoredObject) -> str:
    assert model.rows_object_id is not None  # `deposits.separation` runs before a deposit of an older model
    old_id, model.rows_object_id = model.rows_object_id, vaults.record(session, rows)
    session.flush()
    return vaults.shred(session, old_id)


def shred_revisions_before(session: Session, model_id: str, number: int) -> tuple[list[int], list[str]]:
    """Destroy the keys of older lower parts, which are no longer in service, in the caller's transaction.

    Returns the numbers of the destroyed revisions, and the names of vault objects to delete after the transaction.
    """
    older = list(_present_before(session, model_id, number))
    return [row.number for row in older], [vaults.shred(session, row.lower_object_id) for row in older]


def bump_generation(session: Session, model_id: str) -> None:
    """Record that the model may answer differently from now on, in the caller's transaction."""
    session.execute(sa.update(ModelRow).where(ModelRow.id == model_id).values(generation=ModelRow.generation + 1))


def count_replacement(session: Session, model_id: str) -> None:
    """Record that modules of the model were replaced, in the caller's transaction, under the model's lock."""
    by_id(session, model_id).module_replacements += 1
    bump_generation(session, model_id)
    session.flush()


def await_answers() -> None:
    """Wait until no answer is on its way that was confirmed before the caller's last commit, on any replica.

    A replica confirms the generation at most `ANSWER_SECONDS` before a byte of an answer leaves.
    """
    time.sleep(ANSWER_SECONDS)
