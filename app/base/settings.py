"""All settings of the service. They come from the environment (`LIRF_...`) or a `.env` file."""

import ipaddress
import re
from datetime import datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import limits
from pydantic import Field, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """The defaults run everything on one machine, in one state folder. URLs move parts to other machines."""

    model_config = SettingsConfigDict(
        env_prefix="LIRF_", env_file=".env", env_file_encoding="utf-8-sig", extra="ignore", hide_input_in_errors=True
    )

    state_folder: Path = Field(
        Path("var/lirf"), description="Folder for everything that the service stores on this machine."
    )
    database_url: str | None = Field(None, description="SQLAlchemy URL. Default: SQLite in the state folder.")
    broker_url: str | None = Field(None, description="Celery broker URL. Default: an SQLite file in the state folder.")
    vault_url: str | None = Field(
        None, description="fsspec URL for the vault's objects. Default: a folder in the state folder."
    )
    vault_options: dict[str, str] = Field({}, description="fsspec storage options, for example endpoint_url.")
    master_key_file: Path | None = Field(
        None, description="Tink keyset file with mode 0600. Default: in the state folder."
    )
    device: str = Field("auto", description="auto, cpu, cuda or cuda:N.")
    lease_seconds: float = Field(60, gt=0, description="A worker that sends no heartbeat for this long loses its job.")
    reconcile_seconds: float = Field(5, gt=0, description="Pause between two rounds of the reconciler.")
    doorbell_seconds: float = Field(
        30, gt=0, description="The doorbell rings again for a job that has been queued for this long."
    )
    max_attempts: int = Field(3, ge=1, description="A job fails after its worker has died this many times.")
    checkpoint_seconds: float = Field(
        60, gt=0, description="A deposit loses at most this much work if its worker dies."
    )
    time_limit_seconds: float = Field(
        24 * 3600, gt=0, le=6 * 24 * 3600, description="A job fails if one attempt takes longer than this."
    )
    max_archive_bytes: int = Field(20 << 30, gt=0, description="Maximum size of an uploaded image archive.")
    max_body_bytes: int = Field(32 << 20, gt=0, description="Maximum size of a JSON or image body.")
    all_bodies_bytes: int = Field(
        512 << 20, gt=0, description="Maximum of all JSON and image bodies in memory; half of it for one key."
    )
    event_streams: int = Field(256, ge=1, description="Event streams that may be open at the same time.")
    event_streams_of_key: int = Field(16, ge=1, description="Event streams of one key that may be open.")
    rate_limit: str | None = Field(
        None,
        description="Requests allowed for each key, and for each address that sends none, for example "
        "`600/minute`. Default: no limit.",
    )
    trusted_proxies: list[str] = Field(
        [],
        description="Addresses or networks of proxies in front of the API, as JSON, for example "
        '`["10.0.0.0/8"]`. Only they are believed in `X-Forwarded-For` and `X-Forwarded-Proto`. Default: nobody is.',
    )
    oidc_issuer: str | None = Field(
        None,
        description="OpenID Connect provider whose tokens are accepted as well as API keys, for example "
        "https://login.birds.org.",
    )
    oidc_audience: str | None = Field(
        None, description="The `aud` that a token must have: the provider's name for this service."
    )
    oidc_roles_claim: str = Field(
        "roles", min_length=1, description="The claim that holds the roles; `a.b` means claim b inside claim a."
    )
    oidc_roles: dict[str, Literal["operator", "custodian", "auditor", "administrator", "reader"]] = Field(
        {name: name for name in ("operator", "custodian", "auditor", "administrator", "reader")},
        description="The role that each value of the claim grants, as JSON. A token without any of these values "
        "is refused.",
    )
    inference_batch: int | None = Field(
        None, ge=1, description="Images in one inference batch. Default: 16 on a CPU, 64 on a GPU."
    )
    inference_threads: int | None = Field(
        None, ge=1, description="CPU threads for inference. Default: one for each core."
    )
    inference_queue: int = Field(
        1024, ge=1, description="Images that may wait for the device. Further requests get 503."
    )
    inference_seconds: float = Field(30, gt=0, description="An inference request that takes longer gets 504.")
    cache_bytes: int = Field(2 << 30, gt=0, description="Memory for assembled networks and modules, for inference.")
    backup_days: float | None = Field(
        None,
        ge=0,
        le=36_500,
        allow_inf_nan=False,
        description="How long backups of the database and the keys are stored. A purge reports when the last "
        "of them expires.",
    )
    audit_anchor_file: Path | None = Field(
        None,
        description="The reconciler appends the audit's newest number and digest to this file. Keep it on "
        "another machine.",
    )
    otlp_url: str | None = Field(
        None, description="OpenTelemetry collector (OTLP over HTTP) for traces, for example http://collector:4318."
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["auto", "json", "text"] = Field("auto", description="auto: text on a terminal, otherwise JSON.")

    @field_validator("database_url", "broker_url", "otlp_url")
    @classmethod
    def is_an_address(cls, url: str | None) -> str | None:
        """Libraries name what they cannot read of a URL, which may be a part of its password."""
        try:
            if url and "://" not in url:
                raise ValueError
            urlsplit(url or "").port  # noqa: B018 - raises if it is no number
        except ValueError:
            raise ValueError(
                "it is not a URL such as scheme://user:password@host:port/name. Write special characters of a password "
                "in percent-encoding, for example %2F for /"
            ) from None
        return url

    @field_validator("rate_limit")
    @classmethod
    def is_a_rate_limit(cls, text: str | None) -> str | None:
        if text:
            try:
                limits.parse(text)
            except ValueError:
                raise ValueError(f"'{text}' is not a rate limit; write it like 600/minute or 10 per second") from None
        return text

    @field_validator("trusted_proxies")
    @classmethod
    def are_addresses(cls, proxies: list[str]) -> list[str]:
        for proxy in proxies:
            try:
                ipaddress.ip_network(proxy)
            except ValueError:
                raise ValueError(
                    f"'{proxy}' is not an address or a network; write it like 10.0.0.1 or 10.0.0.0/8"
                ) from None
        return proxies

    @model_validator(mode="after")
    def provider_is_complete(self) -> "Settings":
        if (self.oidc_issuer is None) != (self.oidc_audience is None):
            raise ValueError(
                "set both oidc_issuer and oidc_audience, or neither; without an audience, tokens for other services "
                "would be accepted"
            )
        if self.oidc_issuer and not re.match(r"https://|http://(localhost|127\.0\.0\.1)[:/]", self.oidc_issuer):
            raise ValueError("oidc_issuer must be an https:// address (http:// only for this machine)")
        return self

    @cached_property
    def folder(self) -> Path:
        """The state folder. Creates it with mode 0700 if it does not exist."""
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

    def backups_end(self, destroyed_at: datetime) -> datetime | None:
        """When the last backup that has something of what was destroyed then is gone. None: nobody knows."""
        return None if self.backup_days is None else destroyed_at + timedelta(days=self.backup_days)

    @property
    def spool(self) -> Path:
        """The folder for uploads in progress. Their files have no name, so a crash leaves nothing behind."""
        folder = self.folder / "spool"
        folder.mkdir(mode=0o700, exist_ok=True)
        return folder
