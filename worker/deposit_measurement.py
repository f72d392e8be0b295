"""A deposit, measured before it is published: how its networks answer, what it costs, and who was a member."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from opentelemetry import trace
from torch import nn

from app.deposits.jobs import Job
from app.deposits.losses import Loss, Losses, worst
from app.measurements.figures import Figures, figures_of
from lirf_core import metrics
from lirf_core.evidence.images import Labelled, halves, sides
from lirf_core.evidence.membership import attack
from lirf_core.lesson import Lesson
from lirf_core.losses import margins
from lirf_core.network import SplitNetwork
from lirf_core.recover import DepositModule, RecoverNetwork
from lirf_core.tally import Tally
from worker.images import labelled
from worker.measuring import Comparison, Measuring, chance_notes, recorded_tally, summary, total_loss, worst_class
from worker.training import TrainingHeartbeat
from worker.work import Work

tracer = trace.get_tracer(__name__)


@dataclass(frozen=True)
class Older:
    """The module of an older deposit that is in use before and after this one, and the one that waits (`scrubbed`).

    scrubbed_before: what was scrubbed to make it, which is the module in use if none waited.
    """

    deposit_id: str
    before: DepositModule
    after: DepositModule
    scrubbed_before: DepositModule
    scrubbed: DepositModule

    @property
    def classes(self) -> list[int]:
        return list(self.before.classes)


@dataclass(frozen=True)
class Own:
    """The module that the job made for one of its groups, and the one that is in use afterwards.

    scrubbed: the module without the classes of the other groups; None if there are none.
    """

    deposit_id: str
    module: DepositModule
    after: DepositModule
    scrubbed: DepositModule | None

    @property
    def classes(self) -> list[int]:
        return list(self.module.classes)


@dataclass(frozen=True)
class Networks:
    """The network that the job started from, and what it made, as the vault gives it back.

    original: None if it was destroyed, or if the job starts from it. own: one for each group.
    """

    original: SplitNetwork | None
    before: SplitNetwork
    target: SplitNetwork
    own: Sequence[Own]
    older: Sequence[Older]


@dataclass(frozen=True)
class Measured:
    """metrics, losses: of each deposit of the job, by its id.

    scrubs: points that the classes of each deposit lose when its scrubbed module takes its place; None if nothing could
    be measured. metrics, figures: None without held-out images of a class that the network before answered for.
    """

    metrics: Mapping[str, dict[str, Any] | None]
    losses: Mapping[str, Losses]
    figures: Figures | None
    scrubs: dict[str, float | None]


@tracer.start_as_current_span("measure", record_exception=False)
def measure(work: Work, job: Job, networks: Networks, lesson: Lesson, heartbeat: TrainingHeartbeat) -> Measured:
    """Accuracy on the evaluation set, and what the deposit costs there or, where images are missing, on proxies."""
    on_batch = heartbeat.phase("evaluating")
    held_out = labelled(work, heartbeat.vault, job.evaluation_set) if job.evaluation_set else None
    deposit_set = Labelled(lesson.images, lesson.labels)
    measuring = Measuring(held_out, deposit_set, job.class_names, job.preprocessing, work.inference, on_batch)
    return _Measurement(job, networks, measuring).run(lesson)


def halved(held_out: Labelled, job: Job) -> tuple[Labelled, Labelled]:
    """The held-out images of single images' classes: those that show how unseen images are answered, and the others.

    Membership is measured on the others.
    """
    return halves(held_out.of_classes(job.deposited), seed=0)


@dataclass(frozen=True)
class _Withdrawn:
    """What the classes of a deposit lose by this job, and how its recover network answers.

    total: points that they have lost in all; not of the job's own deposits.
    scrub: points that they lose once the scrubbed module takes its place; None if nothing could be measured.
    scrub_losses: what they would lose by this job if it had its place already; empty if none waits.
    """

    losses: list[Loss]
    recover: RecoverNetwork
    tally: Tally | None
    total: float | None = None
    scrub: float | None = 0.0
    scrub_losses: list[Loss] = field(default_factory=list)


class _Measurement:
    """Each network is asked about the whole evaluation set once; all figures but the proxies' come from its tally."""

    def __init__(self, job: Job, networks: Networks, measuring: Measuring) -> None:
        self._job, self._networks, self._measuring = job, networks, measuring
        self._of_before, self._of_target = measuring.tally(networks.before), measuring.tally(networks.target)
        self._of_original = self._tally_of_original()

    def run(self, lesson: Lesson) -> Measured:
        job, networks, measuring = self._job, self._networks, self._measuring
        compared = Comparison(networks.before, networks.target, self._of_before, self._of_target)
        preserved = measuring.losses(compared, job.answered, job.policy.max_preserved_loss)
        since_original = self._since_original(networks.target, self._of_target, job.answered, preserved)
        of_own = {own.deposit_id: self._of_own(own) for own in networks.own}
        of_older = {older.deposit_id: self._of_older(older) for older in networks.older}
        shared = Losses(
            preserved,
            total_loss(since_original, preserved, job.earlier_loss),
            worst_class(since_original),
            notes=self._notes(),
        )
        losses = {
            deposit_id: replace(shared, recovered=one.losses, scrubs=_scrubs({deposit_id: one}))
            for deposit_id, one in of_own.items()
        }
        first = networks.own[0].deposit_id
        losses[first] = replace(  # what older deposits lose counts once
            losses[first],
            modules={deposit_id: one.losses for deposit_id, one in of_older.items()},
            module_totals={deposit_id: one.total for deposit_id, one in of_older.items()},
            scrubs=losses[first].scrubs | _scrubs(of_older),
        )
        scrubs = {deposit_id: one.scrub for deposit_id, one in (of_own | of_older).items()}
        if not self._of_before or not self._of_before.images_of([*job.preserved, *job.deposited]):
            return Measured(dict.fromkeys(of_own), losses, None, scrubs)
        found = {own.deposit_id: self._metrics(own, of_own[own.deposit_id], lesson) for own in networks.own}
        tallies = {deposit_id: one.tally for deposit_id, one in (of_older | of_own).items()}
        return Measured(found, losses, self._figures(tallies), scrubs)

    def _since_original(
        self, network: nn.Module, tally: Tally | None, classes: Sequence[int], by_this: list[Loss]
    ) -> list[Loss]:
        """What these classes have lost since the original network. Empty if it was destroyed.

        by_this: what they lose by this deposit, which is the same if the deposit starts from the original.
        """
        if self._job.network.revision == 0:
            return by_this
        if self._networks.original is None:
            return []
        compared = Comparison(self._networks.original, network, self._of_original, tally)
        return self._measuring.losses(compared, classes, self._job.policy.max_total_loss)

    def _notes(self) -> list[str]:
        """What is wrong with the evaluation set, as far as the network before the deposit shows it."""
        job, tally = self._job, self._of_before
        if tally is None:
            return []
        return chance_notes(tally, [*job.preserved, *job.deposited], job.deposited, job.class_names)

    def _tally_of_original(self) -> Tally | None:
        if self._of_before is None or self._job.network.revision == 0:
            return self._of_before
        if self._networks.original:
            return self._measuring.tally(self._networks.original)
        recorded = self._job.recorded_original
        return recorded_tally(recorded, self._job.class_names, self._of_before) if recorded else None

    def _of_own(self, own: Own) -> _Withdrawn:
        """What the classes of a deposit of this job lose, when it is withdrawn."""
        measuring, networks, bound = self._measuring, self._networks, self._job.policy.max_module_loss

        def lost(after: RecoverNetwork, tally: Tally | None) -> list[Loss]:
            compared = Comparison(networks.before, after, self._of_before, tally)
            return measuring.losses_of_deposited(compared, own.classes, bound)

        after = self._joined(networks.target, [own.after], self._job.preserved)
        found = _Withdrawn(lost(after, tally := measuring.tally(after)), after, tally)
        if own.scrubbed is None or own.scrubbed is own.after:
            return found
        scrubbed = self._joined(networks.target, [own.scrubbed], self._job.preserved)
        of_scrubbed = measuring.tally(scrubbed)
        in_all = worst(
            measuring.losses_of_deposited(Comparison(after, scrubbed, tally, of_scrubbed), own.classes, bound)
        )
        return replace(found, scrub=in_all.counted if in_all else None, scrub_losses=lost(scrubbed, of_scrubbed))

    def _of_older(self, older: Older) -> _Withdrawn:
        """What the classes of an older deposit lose, when it is withdrawn."""
        job, networks = self._job, self._networks
        before = self._joined(networks.before, [older.before], [*job.preserved, *job.deposited])
        after = self._joined(networks.target, [older.after], job.preserved)
        tallies = self._measuring.tally(before), self._measuring.tally(after)
        losses = self._measuring.losses(Comparison(before, after, *tallies), older.classes, job.policy.max_module_loss)
        since_original = self._since_original(after, tallies[1], older.classes, losses)
        earlier = job.earlier_module_losses.get(older.deposit_id, 0.0)
        found = _Withdrawn(losses, after, tallies[1], total_loss(since_original, losses, earlier))
        return found if older.scrubbed is older.after else self._with_scrub(found, older, before, tallies[0])

    def _with_scrub(
        self, found: _Withdrawn, older: Older, before: RecoverNetwork, of_before: Tally | None
    ) -> _Withdrawn:
        """before: the recover network before this job with the module in use, and its tally."""
        job, networks, bound = self._job, self._networks, self._job.policy.max_module_loss
        scrubbed = self._joined(networks.target, [older.scrubbed], job.preserved)
        of_scrubbed = self._measuring.tally(scrubbed)
        if older.scrubbed_before is not older.before:
            before = self._joined(networks.before, [older.scrubbed_before], [*job.preserved, *job.deposited])
            of_before = self._measuring.tally(before)
        by_this = Comparison(before, scrubbed, of_before, of_scrubbed)
        replaced = Comparison(found.recover, scrubbed, found.tally, of_scrubbed)
        in_all = worst(self._measuring.losses(replaced, older.classes, bound))
        losses = self._measuring.losses(by_this, older.classes, bound)
        return replace(found, scrub=in_all.counted if in_all else None, scrub_losses=losses)

    def _known_by(self, other: Older | Own, held_out: Labelled) -> dict[str, float | None]:
        """How much of these held-out images the module of another deposit still answers, in percent."""
        upper = self._networks.before.upper

        def percent_answered(module: DepositModule) -> float | None:
            logits = self._measuring.logits(SplitNetwork(module.lower, upper), held_out)
            return metrics.tally(logits, held_out.labels).percent(held_out.classes())

        return {"in_use": percent_answered(other.after), "scrubbed": percent_answered(other.scrubbed or other.after)}

    def _joined(
        self, target: SplitNetwork, modules: Sequence[DepositModule], preserved: Sequence[int]
    ) -> RecoverNetwork:
        return RecoverNetwork(target, modules, self._job.network.belonging.upper_digest, preserved)

    def _metrics(self, own: Own, withdrawn: _Withdrawn, lesson: Lesson) -> dict[str, Any]:
        """Accuracies on the classes that answered before, as `DepositMetrics`; of the deposited ones, on its own.

        Membership inference is measured here, too, because the deposit set is shredded when the deposit ends.
        """
        job = self._job
        forgotten = own.classes if job.forgotten else []
        tallies = {
            "original": self._of_original,
            "before": self._of_before,
            "target": self._of_target,
            "recover": withdrawn.tally,
        }
        measured: dict[str, Any] = {
            name: summary(tally, job.class_names, job.answered, forgotten) if tally else None
            for name, tally in tallies.items()
        }
        earlier, later = measured["before"]["deposited_accuracy"], measured["target"]["deposited_accuracy"]
        forgetting = None if earlier is None else metrics.forgetting(earlier, later)
        preserved = measured["target"]["preserved_accuracy"]
        h_mean = None if forgetting is None or preserved is None else metrics.h_mean(preserved, forgetting)
        return {
            **measured,
            "forgetting": forgetting,
            "h_mean": h_mean,
            "membership": self._membership(own, withdrawn.recover, lesson),
            "older_modules": self._known_by_others(own),
        }

    def _known_by_others(self, own: Own) -> dict[str, dict[str, float | None]]:
        """What the modules of other deposits know of this one's classes, by their id."""
        assert self._measuring.held_out is not None
        images = self._measuring.held_out.of_classes(own.classes)
        others: list[Older | Own] = [*self._networks.older, *(one for one in self._networks.own if one is not own)]
        return {other.deposit_id: self._known_by(other, images) for other in others} if len(images) else {}

    def _membership(self, own: Own, recover: RecoverNetwork, lesson: Lesson) -> dict[str, Any] | None:
        """`original` is the network from before the deposit, which was trained on the deposit set like revision 0."""
        held_out = self._measuring.held_out
        assert held_out is not None
        job = self._job
        unseen = halved(held_out, job)[1] if job.is_of_samples else held_out.of_classes(own.classes)
        members, strangers = sides(Labelled(lesson.images, lesson.labels).of_classes(own.classes), unseen)
        if not len(members):
            return None

        def attacked(network: nn.Module) -> dict[str, Any]:
            both = [margins(self._measuring.logits(network, side), side.labels) for side in (members, strangers)]
            return asdict(attack(*both))

        networks = {"original": self._networks.before, "target": self._networks.target, "recover": recover}
        return {name: attacked(network) for name, network in networks.items()}

    def _figures(self, tallies: dict[str, Tally | None]) -> Figures:
        """The target, and each outstanding deposit withdrawn alone and all together, once this job is published.

        tallies: of each deposit withdrawn alone.
        """
        job = self._job
        outstanding: list[Older | Own] = [*self._networks.older, *self._networks.own]
        classes = {one.deposit_id: one.classes for one in outstanding}
        views: list[tuple[list[str], Tally | None, list[int]]] = [([], self._of_target, [])]
        views += [([deposit_id], tally, classes[deposit_id]) for deposit_id, tally in tallies.items()]
        if len(outstanding) > 1:
            modules = [one.after for one in outstanding]
            together = self._measuring.tally(self._joined(self._networks.target, modules, job.preserved))
            views.append((list(tallies), together, sorted(index for own in classes.values() for index in own)))
        measured = [(ids, tally, own) for ids, tally, own in views if tally]
        return figures_of(measured, self._of_original, job.class_names, job.answered)


def _scrubs(withdrawn: dict[str, _Withdrawn]) -> dict[str, list[Loss]]:
    return {deposit_id: one.scrub_losses for deposit_id, one in withdrawn.items() if one.scrub_losses}
