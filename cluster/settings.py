"""Settings of one Raymill service: `RAYMILL_*` in the environment, and where its state lies.

Every process of a service reads the same environment, so none is handed a setting another could miss. All of them import
this, so what only some of them make of it is imported where it is made.
"""

from __future__ import annotations

import ipaddress
import os
import secrets
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from pydantic import AliasChoices, Field, SecretStr, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from raymill.registry.artifact_access import Artifacts
from raymill.registry.artifact_cache import Cache
from raymill.registry.artifacts import ArtifactStore
from raymill.registry.database import Database, dsn_of, normal_url
from raymill.registry.home import default_home
from raymill.registry.object_files import ObjectFiles
from raymill.registry.object_store import ObjectStore
from raymill.registry.postgres import EmbeddedPostgres
from raymill.registry.secrets import SecretBox
from raymill.registry.tables import Role

if TYPE_CHECKING:
    from raymill.registry.audit_export import Roots
    from raymill.registry.oidc import OidcConfig
    from raymill.registry.retention import Retention
    from raymill.registry.sessions import Lifetimes


FRONT_HEADER = "x-raymill-front"
"""Holds `Settings.front_key`: whoever sends that is believed what `x-forwarded-for` says."""


JOINED_SLOTS = 16


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="RAYMILL_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=default_home)
    """All state on this machine: Postgres data, artifacts, keys, logs."""

    database_url: SecretStr | None = Field(
        default=None, validation_alias=AliasChoices("database_url", "RAYMILL_DATABASE_URL", "DATABASE_URL")
    )
    """Postgres 15 or newer. When unset, an embedded one runs under `home`."""

    artifacts_url: str | None = Field(default=None, pattern=r"^[a-z0-9]+://[^@]+$")
    """Where artifacts lie: `s3://BUCKET/PREFIX`, `gs://BUCKET/PREFIX` or `file:///FOLDER`. When unset, under `home`.
    Keys and passwords are no part of it: errors tell it."""

    cache: Path | None = None
    """Where a node keeps its copies of artifacts that lie at a URL, `home/cache` by default."""

    cache_bytes: int = Field(default=200 << 30, ge=1)
    """What these copies take at the most; the least recently used go first."""

    port: int = Field(default=8000, ge=1, le=65535)
    """The one HTTP port: gateway, control plane, health."""

    host: str | None = None
    """Where that port listens. When unset, for this machine alone, and on all interfaces where a cluster is joined. With a
    certificate it stays on loopback."""

    tls_cert: Path | None = None
    """A PEM file with the service's certificate, and those between it and its authority. With it and `tls_key` the service
    answers others by TLS at `tls_host` and `tls_port`; `port` stays on loopback. Renewed files are taken as they come."""

    tls_key: Path | None = None
    """The certificate's key, PEM, readable by its owner alone."""

    tls_host: str = "0.0.0.0"
    """The address to listen at with TLS: all of IPv4; `::` for all there are."""

    tls_port: int = Field(default=8443, ge=1, le=65535)

    address: str | None = None
    """A Ray cluster to join, `host:port` of its GCS. When unset, a head is started here."""

    dashboard_url: str = "http://127.0.0.1:8265"
    """Of the Ray cluster; only read when `address` is set."""

    ray_cpus: int = Field(default_factory=lambda: 2 * (os.cpu_count() or 1), ge=0)
    """Logical CPUs of a head started here. Twice the cores: replicas and drivers mostly wait. 0 leaves all that asks for
    one to nodes that join it."""

    heavy_slots: int = Field(
        default_factory=lambda given: (
            JOINED_SLOTS if given.get("address") else max(1, (os.cpu_count() or 1) // 2)
        ),
        ge=1,
    )
    """Heavy jobs (training, evaluation, quantization) that run at once: one for two cores of this machine; where a cluster is
    joined 16, each with a process of half a GiB on the head."""

    warm_start: bool = False
    """Keep a process that has imported what heavy jobs need, and start their processes as copies of it: a training
    run's first step comes sooner, for about 0.6 GiB of memory. For a head started here, on a machine without a GPU."""

    pool_threads: int = Field(default=8, ge=1)
    """Short jobs that run at once."""

    log_format: Literal["text", "json"] = "text"
    """What every process logs: lines for people, or JSON lines with request, job and trace id (`cluster/logs.py` reads it)."""

    lease_s: float = Field(default=30.0, gt=1)
    """A job's worker that is silent for this long has lost it."""

    grace_s: float = Field(default=20.0, ge=0)
    """What a heavy job has left once its process is asked to end: a training run takes a checkpoint in it."""

    job_retention_days: int = Field(default=14, ge=1)
    """Finished jobs that stand alone move to the history after so long; dead letters after ten times as long."""

    history_months: int = Field(default=12, ge=1)
    """Whole months that the history is kept for."""

    max_upload_bytes: int = Field(default=20 << 30, ge=1)
    """The largest data set file that is taken over HTTP."""

    max_body_bytes: int = Field(default=16 << 20, ge=1024)
    """The largest body that the control plane reads, apart from uploads."""

    cors_origins: tuple[str, ...] = ()
    """Web pages whose scripts may call the control plane, such as `["https://console.example"]`. None by default."""

    audit_dir: Path | None = None
    """Where signed roots of the audit log are kept, `home/audit` by default. A disk that the database's owner cannot
    write to is the right place."""

    audit_root_s: float = Field(default=3600.0, ge=1)
    """How often a root is taken, where rows have come since the last one."""

    backup_dir: Path | None = None
    """Where backups are kept, `home/backups` by default. Another machine's disk is the right place."""

    backup_every_s: float | None = Field(default=None, ge=60)
    """How often a backup is taken and proven. Unset, only when somebody asks for one."""

    backup_keep: int = Field(default=7, ge=1)
    """Proven backups that stay when one is taken on schedule."""

    backup_wal: bool = False
    """Receive the WAL as it is written, beside the backups: they can then be restored to the last second."""

    backup_passphrase: SecretStr | None = None
    """Seals the keys in backups. Without it they are left out."""

    production: bool = False
    """Refuse what breaks things on purpose: experiments of code analysis."""

    code_max_bytes: int = Field(default=100_000, ge=1, le=10_000_000)
    """The largest submission to code analysis; accounts and tiers may have another limit (`code_bytes`)."""

    code_gateway_url: str | None = None
    """Where the steps of code analysis ask their models, below `/v1`. When unset, this service's own gateway."""

    trace_days: int | None = Field(default=None, ge=1)
    """Kept prompts and answers are deleted after so long; unset, never."""

    usage_days: int | None = Field(default=None, ge=62)
    """Records of single requests are deleted after so long; unset, never. Two months, so that budgets can be counted."""

    feedback_days: int | None = Field(default=None, ge=1)
    """Feedback is deleted after so long; unset, never."""

    access_token_s: float = Field(default=600.0, ge=60, le=86_400)
    """How long an access token opens; a session's client trades its refresh token for the next one by itself."""

    session_days: float = Field(default=30.0, gt=0, le=365)
    """After so long a login ends, however much it is used."""

    oidc_issuer: str | None = None
    """An OpenID Connect provider where people may log in, by the exact name that it gives itself."""

    oidc_client_id: str | None = None
    oidc_client_secret: SecretStr | None = None
    """None: this service is a public client there."""

    oidc_create_role: Role | None = None
    """Role of the account that is made at somebody's first login there. When unset, an admin links accounts."""

    @model_validator(mode="after")
    def _tls_is_whole(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("RAYMILL_TLS_CERT and RAYMILL_TLS_KEY belong together: set both, or neither")
        if self.tls_cert is not None and self.tls_port == self.port:
            raise ValueError(
                f"RAYMILL_TLS_PORT and RAYMILL_PORT are both {self.port}: choose another for one of them"
            )
        if self.tls_cert is not None and self.host is not None and not _is_loopback(self.host):
            raise ValueError(
                f"RAYMILL_HOST is {self.host} and RAYMILL_TLS_CERT is set: with TLS the plain port stays on loopback; "
                "unset RAYMILL_HOST, others are answered at RAYMILL_TLS_HOST"
            )
        return self

    @property
    def http_host(self) -> str:
        """The address that the one HTTP port listens on."""
        alone = self.address is None or self.tls_cert is not None
        return self.host or ("127.0.0.1" if alone else "0.0.0.0")

    @property
    def local_host(self) -> str:
        """The address, as it stands in a URL, at which this machine reaches that port."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.http_host, self.http_host)
        return f"[{host}]" if ":" in host else host

    @property
    def oidc(self) -> OidcConfig | None:
        """Where people may log in, apart from passwords."""
        if self.oidc_issuer is None or self.oidc_client_id is None:
            return None
        from raymill.registry.oidc import OidcConfig

        secret = self.oidc_client_secret
        return OidcConfig(
            issuer=self.oidc_issuer,
            client_id=self.oidc_client_id,
            client_secret=secret.get_secret_value() if secret is not None else None,
            create_role=self.oidc_create_role,
        )

    @property
    def retention(self) -> Retention:
        from raymill.registry.retention import Retention

        return Retention(
            trace_days=self.trace_days, usage_days=self.usage_days, feedback_days=self.feedback_days
        )

    @property
    def lifetimes(self) -> Lifetimes:
        """Of tokens and sessions."""
        from raymill.registry.sessions import Lifetimes

        return Lifetimes(access_s=self.access_token_s, session_s=self.session_days * 86_400)

    @property
    def keys_dir(self) -> Path:
        return self.home / "keys"

    @property
    def signing_dir(self) -> Path:
        """The key ring that signs versions and roots of the audit log."""
        return self.keys_dir / "signing"

    @property
    def code_key(self) -> str:
        """The key by which the steps of code analysis ask the gateway."""
        from raymill.registry import identity

        return secret_file(self.keys_dir / "code.key", identity.new_key())

    @property
    def front_key(self) -> str:
        """By which the service knows its own listeners: what they say of a caller's address is believed."""
        return secret_file(self.keys_dir / "front.key", secrets.token_hex(32))

    @property
    def logs_dir(self) -> Path:
        return self.home / "logs"

    @property
    def work_dir(self) -> Path:
        """Scratch of jobs; on the artifacts' file system, so that publishing is a rename."""
        return self.home / "work"

    @property
    def metrics_dir(self) -> Path:
        """One file of numbers for each gateway replica of this machine, in Prometheus' form."""
        return self.home / "metrics"

    @property
    def spool_dir(self) -> Path:
        """Usage records on their way to Postgres: a folder for each gateway replica of this machine."""
        return self.home / "spool"

    @property
    def uploads_dir(self) -> Path:
        """Files that clients sent: unfinished ones, and whole ones by their content."""
        return self.home / "uploads"

    @property
    def service_file(self) -> Path:
        """What runs where, as JSON: url, ray_address, dashboard_url. Written by the supervisor."""
        return self.home / "service.json"

    @property
    def audit_roots(self) -> Roots:
        """Signed roots of the audit log."""
        from raymill.registry.audit_export import Roots

        return Roots(self.audit_dir or self.home / "audit", self.signing_dir)

    @property
    def home_id(self) -> str:
        """Of this home alone: one that was restored has another."""
        return secret_file(self.home / "home.id", uuid.uuid4().hex)

    @property
    def backups_dir(self) -> Path:
        return (self.backup_dir or self.home / "backups").absolute()

    @property
    def artifacts(self) -> Artifacts:
        if self.artifacts_url is None:
            return ArtifactStore(self.home / "artifacts")
        return ObjectStore(ObjectFiles(self.artifacts_url), Cache(self.cache_dir, self.cache_bytes))

    @property
    def cache_dir(self) -> Path:
        return (self.cache or self.home / "cache").absolute()

    @property
    def secret_box(self) -> SecretBox:
        """Seals and opens the keys of providers."""
        return SecretBox(self.keys_dir / "secrets")

    @property
    def embedded_postgres(self) -> EmbeddedPostgres | None:
        return EmbeddedPostgres(self.home / "postgres") if self.database_url is None else None

    @property
    def postgres_dsn(self) -> str:
        """The service's Postgres, as libpq takes it. It holds the password."""
        return dsn_of(normal_url(self._postgres_url()))

    def open_database(self, *, pool_size: int = 5) -> Database:
        """Connect to the service's Postgres, which must have been started."""
        return Database(self._postgres_url(), pool_size=pool_size)

    def _postgres_url(self) -> str:
        embedded = self.embedded_postgres
        if embedded is not None:
            return embedded.url()
        assert self.database_url is not None
        return self.database_url.get_secret_value()


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def secret_file(path: Path, make: str) -> str:
    """The secret kept in `path` (0600); `make` is written there when there is none yet.

    Two processes that make it at once agree: the link is atomic and the first one wins.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(make)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            pass
        finally:
            draft.unlink()
    return path.read_text().strip()
