"""A model's policy: what happens to networks that know deposited classes, which acts need a second person, and how much
a deposit may cost.
"""

from dataclasses import dataclass

from sqlalchemy.orm import Session

from app.registry import service as registry
from app.registry.tables import Hardening as Hardening
from app.registry.tables import ModelRow, Original
from app.registry.tables import Scrub as Scrub


@dataclass(frozen=True)
class Policy:
    """original: `seal` leaves networks from before a deposit encrypted in the vault, where nobody can query them;
    `destroy` shreds them when the deposit is finished. needs_second_person: whether deposits, rebases,
    withdrawals, restorations, purges and changes to this policy need the approval of a second person.

    The bounds, in points from 0 to 100; a deposit beyond one of them is not published. max_preserved_loss: what the
    preserved classes may lose by one deposit. max_module_loss: what the deposited classes may lose when they are
    withdrawn, and those of an older deposit by this one. max_total_loss: what the preserved classes, and those of an
    older deposit, may lose since the original network, by all deposits together. hardening: `served` has each target
    hardened, and the hardened network answers while nothing is withdrawn; `export` only has it made; `none` neither.
    Its bounds are those of a deposit. scrub: `purge` lets a module know classes of later deposits until one of these is
    purged; then its scrubbed one takes its place. `deposit` puts that in place when the later deposit is finished, as
    does `original: destroy`.
    """

    original: Original
    needs_second_person: bool
    max_preserved_loss: float = 5.0
    max_module_loss: float = 5.0
    max_total_loss: float = 10.0
    hardening: Hardening = "served"
    scrub: Scrub = "purge"

    @property
    def scrubs_at_once(self) -> bool:
        """Whether a deposit leaves no older module that knows its classes, as it leaves no network."""
        return self.scrub == "deposit" or self.original == "destroy"


BOUNDS = "max_preserved_loss", "max_module_loss", "max_total_loss"


def of(model: ModelRow) -> Policy:
    return Policy(
        model.original_policy,  # type: ignore[arg-type]
        model.needs_second_person,
        model.max_preserved_loss,
        model.max_module_loss,
        model.max_total_loss,
        model.hardening,  # type: ignore[arg-type]
        model.scrub,  # type: ignore[arg-type]
    )


def destroy_older(session: Session, model: ModelRow) -> tuple[list[int], list[str]]:
    """Shred the revisions before the current one if the policy says so, in the caller's transaction.

    Returns the numbers of the destroyed revisions, and the names of vault objects to delete after the transaction.
    """
    if model.original_policy != "destroy" or model.revision is None:
        return [], []
    return registry.shred_revisions_before(session, model.id, model.revision)
