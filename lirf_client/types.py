"""The service's answers as JSON. Times are ISO 8601 in UTC, accuracy is in percent."""

from typing import Any, TypedDict


class ModelHardening(TypedDict):
    policy: str
    is_served: bool
    why_not: str | None
    id: str | None
    state: str | None
    losses: dict[str, Any] | None


class Model(TypedDict):
    id: str
    name: str
    architecture: dict[str, Any]
    split: str
    classes: list[str]
    preprocessing: dict[str, Any]
    state: str
    revision: int | None
    created_at: str
    created_by: str
    hardening: ModelHardening
    warnings: list[str]


class ModelClass(TypedDict):
    index: int
    name: str
    state: str
    since: str
    by: str
    reason: str | None
    deposit_id: str | None
    withdrawals: list[str]
    until: str | None
    accuracy_original: float | None
    accuracy_before: float | None
    accuracy_after: float | None
    accuracy_recovered: float | None
    measured_at: str | None


class Dataset(TypedDict):
    id: str
    purpose: str
    counts: dict[str, int]
    created_at: str
    created_by: str
    shredded_at: str | None
    warnings: list[str]


class Progress(TypedDict):
    phase: str | None
    epoch: int | None
    epochs: int | None
    step: int | None
    steps: int | None
    module: int | None
    modules: int | None
    losses: dict[str, float] | None


class NetworkAccuracy(TypedDict):
    preserved_accuracy: float | None
    deposited_accuracy: float | None
    average_accuracy: float | None
    by_class: dict[str, float | None]


class Attack(TypedDict):
    auc: float
    error: float


class Membership(TypedDict):
    original: Attack
    target: Attack
    recover: Attack


class KnownByModule(TypedDict):
    in_use: float
    scrubbed: float


class DepositMetrics(TypedDict):
    original: NetworkAccuracy | None
    before: NetworkAccuracy
    target: NetworkAccuracy
    recover: NetworkAccuracy
    forgetting: float | None
    h_mean: float | None
    membership: Membership | None
    older_modules: dict[str, KnownByModule]


class FigureSummary(TypedDict):
    preserved_accuracy: float | None
    preserved_loss: float | None
    withdrawn_accuracy: float | None
    withdrawn_loss: float | None
    average_accuracy: float | None


class View(FigureSummary):
    deposits: list[str]
    by_class: dict[str, float | None]


class Rebase(TypedDict):
    id: str
    model: str
    state: str
    reason: str
    dataset_id: str | None
    evaluation_set_id: str | None
    keep_dataset: bool
    created_at: str
    created_by: str
    started_at: str | None
    finished_at: str | None
    attempts: int
    progress: Progress
    failure: str | None
    revision: int | None
    deposits: list[str]
    config: dict[str, Any]


class Hardening(TypedDict):
    id: str
    model: str
    deposit: str
    revision: int
    state: str
    is_served: bool
    dataset_id: str
    evaluation_set_id: str | None
    keep_dataset: bool
    created_at: str
    created_by: str
    started_at: str | None
    finished_at: str | None
    shredded_at: str | None
    attempts: int
    progress: dict[str, Any]
    failure: str | None
    losses: dict[str, Any] | None


class Measurement(TypedDict):
    id: str
    model: str
    state: str
    deposits: list[str] | None
    evaluation_set_id: str
    revision: int | None
    created_at: str
    created_by: str
    finished_at: str | None
    failure: str | None
    views: list[View] | None
    warnings: list[str]


class ClassLoss(TypedDict):
    name: str
    before: float
    after: float
    images: int
    certain: float


class DepositLoss(TypedDict):
    before: float
    after: float
    images: int
    source: str
    worst_class: ClassLoss | None


class DepositLosses(TypedDict):
    preserved: list[DepositLoss]
    total: float | None
    total_class: ClassLoss | None
    recovered: list[DepositLoss]
    modules: dict[str, list[DepositLoss]]
    module_totals: dict[str, float | None]
    scrubs: dict[str, list[DepositLoss]]


class DepositFigures(TypedDict):
    measurement: str
    measured_at: str
    revision: int
    is_current: bool
    target: FigureSummary
    alone: FigureSummary | None
    together: FigureSummary | None


class ScrubbedModule(TypedDict):
    forgets: int
    loss: float | None


class DepositGroup(TypedDict):
    deposit: str
    classes: list[str]


class Deposit(TypedDict):
    id: str
    model: str
    kind: str
    classes: list[str]
    groups: list[DepositGroup]
    state: str
    reason: str
    created_at: str
    created_by: str
    started_at: str | None
    finished_at: str | None
    attempts: int
    is_cancel_requested: bool
    progress: Progress
    failure: str | None
    purged_at: str | None
    purged_by: str | None
    purge_reason: str | None
    restored_at: str | None
    restored_by: str | None
    restore_reason: str | None
    revision: int | None
    module_revision: int | None
    module_bytes: int | None
    scrubbed_module: ScrubbedModule | None
    metrics: DepositMetrics | None
    losses: DepositLosses | None
    figures: DepositFigures | None
    warnings: list[str]
    config: dict[str, Any]


class EvidenceProgress(TypedDict):
    part: str | None
    number: int | None
    parts: int | None
    step: int | None
    steps: int | None
    piece: str | None


class EvidenceSummary(TypedDict):
    id: str
    deposit: str
    model: str
    state: str
    reference: str | None
    reference_set_id: str | None
    attackers: str
    created_at: str
    created_by: str
    started_at: str | None
    finished_at: str | None
    progress: EvidenceProgress
    failure: str | None
    revision: int | None


class Evidence(EvidenceSummary):
    """`found` holds each figure with its uncertainty, by part and network. `found["good"]` says what is good."""

    digest: str | None
    found: dict[str, Any] | None


class Restoration(TypedDict):
    deposit: str
    model: str
    classes: list[str]
    restored_at: str
    restored_by: str
    reason: str


class Removal(TypedDict):
    model: str
    removed_at: str
    removed_by: str
    reason: str
    shred_effective_at: str | None
    still_in: list[str]
    also_in: list[str]


class Rest(TypedDict):
    what: str
    cure: str
    deposits: list[str]


class Base(TypedDict):
    model: str
    revision: int
    destroyed_revisions: list[int]
    shred_effective_at: str | None
    still_in: list[str]
    also_in: list[str]


class Purge(TypedDict):
    deposit: str
    model: str
    classes: list[str]
    purged_at: str
    purged_by: str
    reason: str
    shred_effective_at: str | None
    still_in: list[str]
    also_in: list[str]
    scrubbed: list[str]
    rest: Rest


class Withdrawal(TypedDict):
    id: str
    model: str
    deposits: list[str]
    classes: list[str]
    state: str
    holder: str
    visibility: str
    reason: str
    created_at: str
    created_by: str
    expires_at: str | None
    ended_at: str | None
    ended_by: str | None


class Approval(TypedDict):
    id: str
    model: str
    act: str
    wish: dict[str, Any]
    reason: str
    state: str
    requested_at: str
    requested_by: str
    requested_key_id: str
    expires_at: str
    decided_at: str | None
    decided_by: str | None
    decided_key_id: str | None
    decision_reason: str | None
    result_id: str | None
    still_in: list[str]


class Policy(TypedDict):
    original: str
    needs_second_person: bool
    max_preserved_loss: float
    max_module_loss: float
    max_total_loss: float
    hardening: str
    scrub: str


class AuditEvent(TypedDict):
    id: str
    number: int
    at: str
    actor: str
    actor_id: str | None
    action: str
    model: str | None
    subject: str | None
    reason: str | None
    details: dict[str, Any]
    request_id: str | None
    previous: str
    digest: str


class AuditHead(TypedDict):
    number: int
    digest: str


class AuditFault(TypedDict):
    number: int
    what: str


class Verification(TypedDict):
    head: AuditHead
    is_intact: bool
    faults: list[AuditFault]
    alarm: str | None


# A call, because the keyword `class` cannot be a field of a class statement.
Prediction = TypedDict("Prediction", {"class": str, "probability": float})


class Predictions(TypedDict):
    model: str
    revision: int
    withdrawals: list[str]
    predictions: list[Prediction]
