"""The images of a data set, for a job."""

from app.datasets import service as datasets
from app.vault.service import StoredObject, Vault
from lirf_core.evidence.images import Labelled
from worker.work import Work


def labelled(work: Work, vault: Vault, stored: StoredObject) -> Labelled:
    """Raises what `datasets.load` does. vault: the job's, which keeps its lease."""
    images = datasets.load(vault, stored, work.settings.spool)
    return Labelled(images.images, images.labels)
