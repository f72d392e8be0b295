"""What every job needs at hand in a worker process."""

from app.base.database import Database
from app.base.settings import Settings
from app.jobs.doorbell import Doorbell
from app.vault.service import open_vault
from lirf_core.compute import Compute


class Work:
    """Database, vault, devices and doorbell, opened once in each process."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.database)
        self.vault = open_vault(settings)
        self.training, self.inference = Compute.for_training(settings.device), Compute.for_inference(settings.device)
        self.doorbell = Doorbell(settings)
