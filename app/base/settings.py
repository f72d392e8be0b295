"""Every setting of the service, from the environment (`LIRF_...`) or a `.env` file."""

import re
from functools import cached_property
from pathlib import Path
from typing import Literal

import limits
from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Defaults run everything embedded in one state folder; URLs spread it out."""

    model_config = SettingsConfigDict(env_prefix="LIRF_", env_file=".env", extra="ignore")

    state_folder: Path = Field(Path("var/lirf"), description="Everything the embedded service keeps.")
    database_url: str | None = Field(None, description="SQLAlchemy URL; default: SQLite in the state folder.")
    broker_url: str | None = Field(None, description="Celery broker URL; default: an SQLite file in the state folder.")
    vault_url: str | None = Field(None, description="fsspec URL of the vault's objects; default: a folder.")
    vault_options: dict[str, str] = Field({}, description="fsspec storage options, such as endpoint_url.")
    master_key_file: Path | None = Field(None, description="Tink keyset, mode 0600; default: in the state folder.")
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    lease_seconds: float = Field(60, gt=0, description="A worker that is silent for longer has lost its deposit.")
    reconcile_seconds: float = Field(5, gt=0, description="Pause between two rounds of the reconciler.")
    doorbell_seconds: float = Field(30, gt=0, description="A queued deposit is announced again after this long.")
    max_attempts: int = Field(3, ge=1, description="A deposit whose worker died this often has failed.")
    checkpoint_seconds: float = Field(60, gt=0, description="A deposit whose worker died loses at most so much work.")
    time_limit_seconds: float = Field(
        24 * 3600, gt=0, le=6 * 24 * 3600, description="An attempt that takes longer fails the deposit."
    )
    max_archive_bytes: int = Field(20 << 30, gt=0, description="Largest image archive that is taken.")
    max_body_bytes: int = Field(32 << 20, gt=0, description="Largest JSON or image body that is taken.")
    rate_limit: str | None = Field(
        None, description="Requests of each key, and of each address without one, such as `600/minute`; none: no limit."
    )
    oidc_issuer: str | None = Field(
        None,
        description="OpenID Connect provider whose tokens are taken beside API keys, such as https://login.birds.org.",
    )
    oidc_audience: str | None = Field(None, description="The `aud` that a token must have: the provider's name for us.")
    oidc_roles_claim: str = Field("roles", min_length=1, description="The claim with roles; `a.b` also for b within a.")
    oidc_roles: dict[str, Literal["operator", "custodian", "auditor", "administrator", "reader"]] = Field(
        {name: name for name in ("operator", "custodian", "auditor", "administrator", "reader")},
        description="What each value of the claim grants, as JSON; who has none of them is refused.",
    )
    inference_batch: int | None = Field(
        None, ge=1, description="Images that are computed at once; default: 16 on a CPU, 64 on a GPU."
    )
    inference_threads: int | None = Field(
        None, ge=1, description="Of a CPU, for inference; default: one for each core."
    )
    inference_queue: int = Field(1024, ge=1, description="Images that may wait for the device; more are refused, 503.")
    inference_seconds: float = Field(30, gt=0, description="An inference request that takes longer is given up, 504.")
    cache_bytes: int = Field(2 << 30, gt=0, description="Networks and modules kept assembled for inference.")
    backup_days: float | None = Field(
        None,
        ge=0,
        le=36_500,
        allow_inf_nan=False,
        description="How long backups of database and keys are kept; a purge says when they end.",
    )
    audit_anchor_file: Path | None = Field(
        None, description="The reconciler adds the audit's newest number and digest here; keep it off this machine."
    )
    otlp_url: str | None = Field(
        None, description="OpenTelemetry collector (OTLP over HTTP) that traces go to, such as http://collector:4318."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text at a terminal, else JSON.")

    @field_validator("rate_limit")
    @classmethod
    def is_a_limit(cls, text: str | None) -> str | None:
        if text:
            try:
                limits.parse(text)
            except ValueError:
                raise ValueError(f"'{text}' is no limit such as 600/minute or 10 per second") from None
        return text

    @model_validator(mode="after")
    def names_a_provider_wholly(self) -> "Settings":
        if (self.oidc_issuer is None) != (self.oidc_audience is None):
            raise ValueError("oidc_issuer and oidc_audience belong together: a token of any audience is not for us")
        if self.oidc_issuer and not re.match(r"https://|http://(localhost|127\.0\.0\.1)[:/]", self.oidc_issuer):
            raise ValueError("oidc_issuer is an https:// address (http:// on this machine alone)")
        return self

    @cached_property
    def folder(self) -> Path:
        """The state folder, made with mode 0700 where it is missing."""
        folder = self.state_folder.absolute()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        return folder

    @property
    def database(self) -> str:
        return self.database_url or f"sqlite:///{self.folder / 'lirf.sqlite3'}"

    @property
    def broker(self) -> str:
        return self.broker_url or f"sqla+sqlite:///{self.folder / 'broker.sqlite3'}"

    @property
    def vault(self) -> str:
        return self.vault_url or f"file://{self.folder / 'vault'}"

    @property
    def master_key(self) -> Path:
        return self.master_key_file or self.folder / "master.key"

    @property
    def spool(self) -> Path:
        """Uploads in flight, as files without a name: nothing is left of them after a crash."""
        folder = self.folder / "spool"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder
