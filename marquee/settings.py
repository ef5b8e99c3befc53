"""All settings in one frozen object, from ``MARQUEE_*`` variables and an optional ``marquee.toml``.

Environment wins over the file. An unknown key in either is an error that names it.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import tomllib
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from marquee.errors import SettingsError
from marquee.monotone import monotone_signs

PREFIX = "MARQUEE_"
ROOT = Path(__file__).resolve().parent.parent
"""The checkout, where ``dbt_project/`` and ``dags/`` stand beside the packages."""


class Settings(BaseSettings):
    """One installation's settings. All of its state lives under ``home``."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid")

    home: Path = Field(Path(".marquee"), description="Folder that holds all state of the installation.")
    data: Path | None = Field(None, description="Folder with public data sets; tests that need one look here.")
    source: str = Field("simulator", description="Source that the ingest DAG reads when it is not told another.")
    source_path: Path | None = Field(None, description="Path of that source's files.")
    seed: int = Field(7, ge=0, description="Seed of the simulator and of training.")
    events: int = Field(200_000, ge=1_000, le=10_000_000, description="Size of the simulated log, in events.")
    difficulty: Literal["easy", "usual", "hard"] = Field(
        "usual", description="Of the simulated shop: how often people click, and how much browsing tells of them."
    )
    dbt_target: str = Field("duckdb", pattern="^(duckdb|postgres|spark)$", description="Which dbt target to build on.")
    postgres_url: SecretStr | None = Field(
        None, description="postgresql://… of the warehouse when dbt_target is postgres."
    )
    spark_master: str = Field(
        "local[2]", description="Spark master when dbt_target, offline_store or ranker_engine is spark."
    )
    offline_store: Literal["duckdb", "spark"] = Field("duckdb", description="Engine of point-in-time joins.")
    online_store: Literal["sqlite", "valkey"] = Field("sqlite", description="Where online features live.")
    valkey_url: SecretStr | None = Field(None, description="redis://… of Valkey or Redis when online_store is valkey.")
    event_log: Literal["files", "valkey"] = Field(
        "files", description="Where the service's events wait for the load: files here, or Valkey for many machines."
    )
    valkey_log_mb: int = Field(
        256, ge=1, description="Most that may wait in Valkey, in megabytes; events beyond it are refused."
    )
    lineage: bool = Field(True, description="Write OpenLineage events to home/lineage.")
    service_host: str = Field("127.0.0.1", description="Address the service binds.")
    service_port: int = Field(3000, ge=1, le=65535, description="Port of the service.")
    service_workers: int = Field(1, ge=1, le=256, description="Processes that answer requests.")
    service_requests: int = Field(
        256, ge=1, le=100_000, description="Requests that one process works on at once; more are answered with 503."
    )
    deadline: float = Field(2.0, gt=0, le=60, description="Seconds after which a request is answered with 504.")
    slate_ms: float = Field(
        150.0, gt=0, le=10_000, description="Milliseconds after which a slate comes without the visitor's features."
    )
    slates_waiting: int = Field(
        64, ge=1, le=10_000, description="Slates that one process works on at once; more are answered quickly."
    )
    explain_days: float = Field(7.0, ge=0, description="How long decisions are kept for marquee explain; 0 for none.")
    body_limit: int = Field(1_048_576, ge=1_024, description="Largest body of a request, in bytes.")
    events_limit: int = Field(1_000, ge=1, le=100_000, description="Most events in one report.")
    rate_limit: str | None = Field(None, description="Requests that one key may make, such as 6000/minute.")
    cors_origins: str | None = Field(None, description="Origins whose pages may call the service, separated by commas.")
    public_url: str = Field("", description="What browsers call the service by; begins click URLs, empty for relative.")
    click_secret: SecretStr | None = Field(
        None, description="Signs click URLs, 32 characters or more; for many machines, one has its own."
    )
    log_format: Literal["json", "text"] = Field("json", description="What the service's log lines look like.")
    log_requests: bool = Field(True, description="Log a line for each request.")
    traces_url: str | None = Field(None, description="http://… of an OTLP collector that gets traces of requests.")
    as_of: datetime | None = Field(None, description="Serve as if it were this moment (UTC); for replays and demos.")
    attribution_days: float = Field(1.0, gt=0, description="A click counts this many days after its impression.")
    notification_hours: float = Field(
        72.0, gt=0, le=720, description="Hours after which a notification that nobody answered was ignored."
    )
    notify_weekly: int = Field(
        3, ge=0, le=50, description="Most notifications a visitor gets in seven days, whatever the segment."
    )
    notify_quiet: str = Field(
        "21:00-09:00",
        pattern=r"^([01]\d|2[0-3]):[0-5]\d-([01]\d|2[0-3]):[0-5]\d$",
        description="Hours at which nobody is notified, by the clock where the visitor is.",
    )
    notify_time_zone: str = Field("UTC", description="Time zone of visitors whose country is not known.")
    notify_email: Literal["file", "webhook", "smtp"] = Field("file", description="What sends notifications by e-mail.")
    notify_push: Literal["file", "webhook", "smtp"] = Field("file", description="What sends push notifications.")
    notify_webhook: Literal["file", "webhook", "smtp"] = Field(
        "file", description="What sends notifications that a system of the shop's delivers."
    )
    notify_webhook_url: SecretStr | None = Field(None, description="https://… that gets notifications as JSON.")
    notify_webhook_secret: SecretStr | None = Field(None, description="Signs what that URL gets.")
    notify_smtp_url: SecretStr | None = Field(
        None, description="smtps://user:password@host:port of the mail server, or smtp://… for one with STARTTLS."
    )
    notify_from: str | None = Field(None, description="Sender of mails, such as Shop <news@shop.example>.")
    notify_addresses: Path | None = Field(None, description="CSV file of visitor_id and address, for mails.")
    notify_messages: Path | None = Field(None, description="TOML file of what notifications say, by type.")
    notify_tries: int = Field(8, ge=1, le=50, description="How often a notification is tried before it is given up.")
    notify_timeout: float = Field(
        10.0, gt=0, le=60, description="Seconds for each step of sending a notification: connecting, and each answer."
    )
    exploration: float = Field(0.05, ge=0, le=1, description="Share of each draw that is uniform over the eligible.")
    temperature: float = Field(0.0, ge=0, description="Of a softmax over click probabilities; 0 takes the best.")
    heads: int = Field(0, ge=0, le=1_000, description="Posterior draws that Thompson sampling decides by; 0 for none.")
    optimism: float = Field(0.0, ge=0, description="Posterior deviations added to a banner's log-odds; 0 for none.")
    diversity: float = Field(0.0, ge=0, description="What a score loses for a banner just like it above.")
    new_banner_boost: float = Field(0.15, ge=0, description="Share by which scores of banners never shown are raised.")
    new_banner_impressions: float = Field(1_000.0, gt=0, description="Impressions over which that boost falls to 0.")
    experiment: Path | None = Field(None, description="TOML file of the experiment that the service runs.")
    candidates: int = Field(50, ge=1, description="Banners that retrieval hands to the ranker.")
    monitor_hours: float = Field(24.0, ge=1, description="Hours of traffic that monitoring looks back on.")
    alert_webhook: SecretStr | None = Field(None, description="https://… that gets alarms as JSON; a secret.")
    auto_rollback: bool = Field(False, description="Roll back when the champion's clicks fall or are mispredicted.")
    rank_by: Literal["clicks", "value"] = Field(
        "clicks", description="What slates are drawn for: clicks, or the revenue that a click brings on average."
    )
    monotone: str = Field(
        "banner_click_rate:+,visitor_click_rate:+,affinity_match:+,affinity_cosine:+,position:-",
        description="Features with which the click probability may never fall (+) or rise (-); empty for none.",
    )
    ranker_engine: Literal["local", "spark"] = Field("local", description="Where the ranker's trees are fitted.")
    ranker_workers: int = Field(2, ge=1, description="Spark tasks that fit one tree together.")
    flag_sessions: bool = Field(True, description="Leave sessions out of training rows that look like a bot's.")
    quiet: bool = Field(False, description="No progress bars.")

    @field_validator("monotone")
    @classmethod
    def _is_monotone(cls, text: str) -> str:
        monotone_signs(text)
        return text

    @field_validator("event_log")
    @classmethod
    def _has_valkey(cls, kind: str, info: ValidationInfo) -> str:
        # Any machine may bring any event into session features, and acknowledges it where they are kept.
        if kind == "valkey" and (info.data.get("online_store") != "valkey" or info.data.get("valkey_url") is None):
            raise ValueError("valkey needs online_store = valkey and a valkey_url too")
        return kind

    @field_validator("rate_limit")
    @classmethod
    def _is_rate(cls, text: str | None) -> str | None:
        if text and not re.fullmatch(r"[1-9]\d{0,8}/(second|minute|hour|day)", text):
            raise ValueError("write a number and a second, minute, hour or day, such as 6000/minute")
        return text

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, text: str | None) -> str | None:
        for origin in filter(None, (part.strip() for part in (text or "").split(","))):
            if not re.fullmatch(r"https?://[\w.:\[\]-]+", origin):
                raise ValueError(f"{origin!r} is no origin, such as https://shop.example")
        return text

    @field_validator("public_url")
    @classmethod
    def _is_base(cls, text: str) -> str:
        if text and not re.fullmatch(r"https?://[^\s?#]+", text):
            raise ValueError("write a URL such as https://banners.shop.example, without ? and #")
        return text

    @field_validator("click_secret")
    @classmethod
    def _is_long(cls, secret: SecretStr | None) -> SecretStr | None:
        if secret is not None and len(secret.get_secret_value()) < 32:
            raise ValueError("write 32 characters or more, such as `openssl rand -hex 32` prints")
        return secret

    @field_validator("traces_url")
    @classmethod
    def _is_url(cls, text: str | None) -> str | None:
        if text is not None and not re.fullmatch(r"https?://\S+", text):
            raise ValueError("write a URL that begins with http:// or https://")
        return text

    @field_validator("optimism")
    @classmethod
    def _is_not_sampled_too(cls, width: float, info: ValidationInfo) -> float:
        if width and info.data.get("heads"):
            raise ValueError("optimism and heads are two ways to explore; set one of them to 0")
        return width

    @property
    def warehouse(self) -> Path:
        """The DuckDB file."""
        return self.home / "warehouse.duckdb"

    @property
    def log(self) -> Path:
        """The event log's folder."""
        return self.home / "log"

    @property
    def quarantine(self) -> Path:
        """Batches that a gate refused."""
        return self.home / "quarantine"

    @property
    def features(self) -> Path:
        """Feast's registry, offline files and online store."""
        return self.home / "features"

    @property
    def reports(self) -> Path:
        """Data docs, plots and evaluation reports."""
        return self.home / "reports"

    @property
    def bentos(self) -> Path:
        """BentoML's stores."""
        return self.home / "bentoml"

    @property
    def decisions(self) -> Path:
        """What each answer was decided from, for ``marquee explain``."""
        return self.home / "decisions"

    @property
    def shadow(self) -> Path:
        """What shadows would have shown."""
        return self.home / "shadow"

    @property
    def notifications(self) -> Path:
        """The outbox of notifications, and what file senders wrote."""
        return self.home / "notifications"

    @property
    def lineage_folder(self) -> Path:
        """OpenLineage events, unless they are sent elsewhere."""
        return self.home / "lineage"

    @property
    def keys(self) -> Path:
        """The API keys, as hashes, and who changed them when."""
        return self.home / "keys.sqlite"

    @property
    def click_key(self) -> Path:
        """What signs click URLs, where no ``click_secret`` is set."""
        return self.home / "click.key"

    @property
    def registry(self) -> Path:
        """The record of promotions."""
        return self.home / "registry.sqlite"


def settings_now(settings: Settings) -> datetime:
    """The moment to act at, UTC without a zone: ``as_of`` when it is set, else now."""
    moment = settings.as_of or datetime.now(UTC)
    return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment


def load_settings(home: Path | None = None, **overrides: Any) -> Settings:
    """Read the settings; arguments win over the environment, the environment over ``marquee.toml``.

    Raises:
        SettingsError: an unknown key, or a value that does not fit, named in the message.
    """
    known = set(Settings.model_fields)
    unknown = sorted(k for k in os.environ if k.startswith(PREFIX) and k[len(PREFIX) :].lower() not in known)
    if unknown:
        raise SettingsError(f"unknown setting {unknown[0]}; {_meant(unknown[0], [PREFIX + k.upper() for k in known])}")
    given = {key: value for key, value in overrides.items() if value is not None}
    if home is not None:
        given["home"] = home
    file = _read_file(Path("marquee.toml"), known)
    from_file = {k: v for k, v in file.items() if PREFIX + k.upper() not in {name.upper() for name in os.environ}}
    try:
        settings = Settings(**(from_file | given))
    except ValidationError as error:
        first = error.errors()[0]
        raise SettingsError(f"setting {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    return settings.model_copy(update={"home": settings.home.expanduser().absolute()})


def _read_file(path: Path, known: set[str]) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    for key in values:
        if key not in known:
            raise SettingsError(f"{path}: unknown setting {key!r}; {_meant(key, list(known))}")
    return values


def _meant(name: str, known: list[str]) -> str:
    """The known names most like it; all of them would be a page."""
    alike = difflib.get_close_matches(name, known, n=3)
    listed = "docs/operations.md lists them all"
    return f"did you mean {' or '.join(alike)}? {listed}" if alike else listed


def has_own_lineage_backend(environment: Mapping[str, str]) -> bool:
    """Whether OPENLINEAGE_* variables say where lineage is to go, instead of files under ``home``."""
    names = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE__TRANSPORT")
    return any(name.startswith(names) for name in environment)


def lineage_environment(settings: Settings) -> dict[str, str]:
    """Variables that have Airflow write its lineage beside ours, without the source code of its tasks."""
    file = settings.lineage_folder / "airflow.jsonl"
    switch = {"AIRFLOW__OPENLINEAGE__DISABLED": str(not settings.lineage)}
    if not settings.lineage or has_own_lineage_backend(os.environ):
        return switch
    transport = {"type": "file", "log_file_path": str(file), "append": True}
    return switch | {
        "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(transport),
        "AIRFLOW__OPENLINEAGE__NAMESPACE": "marquee",
        "AIRFLOW__OPENLINEAGE__DISABLE_SOURCE_CODE": "True",
    }


def quiet_environment(settings: Settings) -> dict[str, str]:
    """Variables that place every tool's state under ``home`` and turn every tool's telemetry off."""
    airflow = settings.home / "airflow"
    return {
        "MARQUEE_HOME": str(settings.home),
        "AIRFLOW_HOME": str(airflow),
        "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__WORKERS": "1",
        "BENTOML_HOME": str(settings.bentos),
        "BENTOML_DO_NOT_TRACK": "True",
        "DO_NOT_TRACK": "1",
        "FEAST_USAGE": "False",
        "GX_ANALYTICS_ENABLED": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "OTEL_SDK_DISABLED": "true",
        "OMP_WAIT_POLICY": "PASSIVE",
        "TF_USE_LEGACY_KERAS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "PYTHONWARNINGS": "ignore",
    } | lineage_environment(settings)
