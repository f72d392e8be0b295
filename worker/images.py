"""The images of data sets, for a job."""

from collections.abc import Sequence

import torch

from app.datasets import service as datasets
from app.vault.service import StoredObject, Vault
from lirf_core.evidence.images import Labelled
from worker.work import Work


def together(sets: Sequence[Labelled]) -> Labelled:
    """The images of several data sets, in memory."""
    return Labelled(torch.cat([one.images() for one in sets]), torch.cat([one.labels for one in sets]))


def labelled(work: Work, vault: Vault, stored: StoredObject) -> Labelled:
    """Raises what `datasets.load` does. vault: the job's, which keeps its lease."""
    images = datasets.load(vault, stored, work.settings.spool)
    return Labelled(images.images, images.labels)
