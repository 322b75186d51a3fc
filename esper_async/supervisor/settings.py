"""Every setting, from defaults, a TOML file, the environment and flags, in that order.

`config/esper.toml` lists them all with a line of why; a test holds the two together. Unknown keys
are errors that name the nearest known one and the source that they come from.

The three sources are plain nested dictionaries, merged before they are checked: pydantic-settings
would do the same for 0.2 s more of start-up, and could not say which source was wrong.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from esper_async.runtime.strict_model import (
    ConfigurationError,
    StrictModel,
    problems_of,
    secret_keys,
)
from esper_async.runtime.toml_file import read_toml

PREFIX = "ESPER_"
DELIMITER = "__"
_HTTP = r"^$|^https?://"


class ServiceSettings(StrictModel):
    """Limits of one service that differ from those of all; empty ones do not."""

    restart_limit: int | None = Field(default=None, ge=0, le=1_000)
    restart_window_s: float | None = Field(default=None, gt=0)
    start_timeout_s: float | None = Field(default=None, gt=0, le=3_600)
    stop_timeout_s: float | None = Field(default=None, gt=0, le=3_600)


class ServicesSettings(StrictModel):
    """The services that can be limited by name."""

    http: ServiceSettings = Field(default_factory=ServiceSettings)
    oona: ServiceSettings = Field(default_factory=ServiceSettings)
    karn: ServiceSettings = Field(default_factory=ServiceSettings)
    urza: ServiceSettings = Field(default_factory=ServiceSettings)
    tezzeret: ServiceSettings = Field(default_factory=ServiceSettings)
    tolaria: ServiceSettings = Field(default_factory=ServiceSettings)
    kasmina: ServiceSettings = Field(default_factory=ServiceSettings)
    tamiyo: ServiceSettings = Field(default_factory=ServiceSettings)
    simic: ServiceSettings = Field(default_factory=ServiceSettings)
    nissa: ServiceSettings = Field(default_factory=ServiceSettings)


class SupervisorSettings(StrictModel):
    """The supervisor itself: where its state is, how it starts, restarts and stops."""

    state_dir: Path = Path(".esper")
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    default_run: str = "digits"
    shutdown_deadline_s: float = Field(default=8.5, gt=0, le=3_600)
    start_timeout_s: float = Field(default=60.0, gt=0, le=3_600)
    restart_limit: int = Field(default=3, ge=0, le=1_000)
    restart_window_s: float = Field(default=60.0, gt=0)
    stop_timeout_s: float = Field(default=20.0, gt=0, le=3_600)
    tree_restart_limit: int = Field(default=10, ge=0, le=10_000)
    services: ServicesSettings = Field(default_factory=ServicesSettings)
    disk_low_mb: int = Field(default=1_024, ge=0)
    disk_full_mb: int = Field(default=256, ge=0)
    disk_quota_mb: int = Field(default=0, ge=0)
    log_limit_mb: int = Field(default=16, ge=1)
    stall_s: float = Field(default=0.25, gt=0)
    stall_limit_s: float = Field(default=120.0, ge=0)

    @model_validator(mode="after")
    def _low_comes_before_full(self) -> "SupervisorSettings":
        if self.disk_full_mb > self.disk_low_mb:
            raise ValueError(
                f"disk_full_mb = {self.disk_full_mb} must not be more than "
                f"disk_low_mb = {self.disk_low_mb}: a disk is low before it is full"
            )
        return self


class HttpSettings(StrictModel):
    """Where the supervisor listens."""

    host: str = "127.0.0.1"
    port: int = Field(default=8787, ge=0, le=65_535)


class OonaSettings(StrictModel):
    """The bus's server, and what is kept on it."""

    redis_url: str = Field(
        default="", repr=False, pattern=r"^$|^((redis|rediss)(\+sentinel)?|unix)://"
    )
    dead_letters_kept: int = Field(default=10_000, ge=1)


class TolariaSettings(StrictModel):
    """How training processes are run."""

    concurrent_runs: int = Field(default=1, ge=1, le=256)
    nice: int = Field(default=10, ge=0, le=19)
    heartbeat_timeout_s: float = Field(default=120.0, gt=0)
    start_timeout_s: float = Field(default=300.0, gt=0)
    stop_s: float = Field(default=5.0, gt=0)
    resume_window_s: float = Field(default=600.0, gt=0)
    ended_checkpoints_kept_s: float = Field(default=2_592_000.0, ge=0)
    ended_runs_kept_s: float = Field(default=0.0, ge=0)


class TezzeretSettings(StrictModel):
    """The forge's workers, and what a single job may take."""

    workers: int = Field(default=0, ge=0, le=64)
    nice: int = Field(default=19, ge=0, le=19)
    job_limit_s: float = Field(default=60.0, gt=0)
    compile_limit_s: float = Field(default=240.0, gt=0)
    memory_mb: int = Field(default=2_048, ge=256)
    output_mb: int = Field(default=1_024, ge=16)
    max_attempts: int = Field(default=3, ge=1, le=100)
    idle_s: float = Field(default=30.0, ge=0)


class NissaSettings(StrictModel):
    """What is kept, how often alerts are judged, and how much a client may change."""

    event_retention_s: float = Field(default=604_800.0, gt=0)
    metric_retention_s: float = Field(default=2_592_000.0, gt=0)
    prometheus_url: str = Field(default="", repr=False, pattern=r"^$|^https?://")
    elasticsearch_url: str = Field(default="", repr=False, pattern=_HTTP)
    elasticsearch_api_key: str = Field(default="", repr=False)
    elasticsearch_stream: str = Field(default="esper-events", pattern=r"^[a-z][a-z0-9_.-]*$")
    alert_every_s: float = Field(default=30.0, gt=0)
    alert_hold_scale: float = Field(default=1.0, gt=0, le=1)
    changes_per_minute: int = Field(default=20, ge=1)


class TamiyoSettings(StrictModel):
    """How a learned policy takes over that Simic has published."""

    policy_activation: Literal["episode", "boundary"] = "episode"
    shadow_states: int = Field(default=20, ge=10, le=1_000)
    watch_boundaries: int = Field(default=10, ge=10, le=1_000)


class NotifySettings(StrictModel):
    """Where alerts are sent; a channel without an address does not exist."""

    webhook_url: str = Field(default="", repr=False, pattern=_HTTP)
    slack_url: str = Field(default="", repr=False, pattern=_HTTP)
    pagerduty_key: str = Field(default="", repr=False)
    pagerduty_url: str = Field(
        default="https://events.pagerduty.com/v2/enqueue", pattern=r"^https?://"
    )
    smtp_url: str = Field(default="", repr=False, pattern=r"^$|^smtps?://")
    mail_from: str = "esper@localhost"
    mail_to: str = ""
    page_url: str = Field(default="", pattern=_HTTP)
    group_wait_s: float = Field(default=10.0, ge=0)
    repeat_every_s: float = Field(default=14_400.0, gt=0)
    timeout_s: float = Field(default=10.0, gt=0)
    attempts: int = Field(default=5, ge=1)
    first_retry_s: float = Field(default=5.0, gt=0)


class Settings(StrictModel):
    """All settings, by section; made by `load_settings`."""

    supervisor: SupervisorSettings = Field(default_factory=SupervisorSettings)
    http: HttpSettings = Field(default_factory=HttpSettings)
    oona: OonaSettings = Field(default_factory=OonaSettings)
    tezzeret: TezzeretSettings = Field(default_factory=TezzeretSettings)
    tolaria: TolariaSettings = Field(default_factory=TolariaSettings)
    tamiyo: TamiyoSettings = Field(default_factory=TamiyoSettings)
    nissa: NissaSettings = Field(default_factory=NissaSettings)
    notify: NotifySettings = Field(default_factory=NotifySettings)


def load_settings(
    config: Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings from `config` (a TOML file), the environment and dotted `overrides`.

    Raises ConfigurationError that lists every problem and names the source of each.
    """
    sources = {
        "in a flag": _nested((overrides or {}).items(), "."),
        "in the environment": _from_environment(os.environ if environment is None else environment),
        f"in {config}": read_toml(config) if config is not None else {},
    }
    merged: dict[str, Any] = {}
    for document in reversed(sources.values()):
        _lay_over(merged, document)
    try:
        return Settings.model_validate(merged)
    except ValidationError as error:
        where = [_origin(details["loc"], sources) for details in error.errors()]
        problems = problems_of(error, Settings)
        raise ConfigurationError(
            "the configuration", [f"{p}{w}" for p, w in zip(problems, where, strict=True)]
        ) from None


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Turn `key=value` flags into dotted overrides; raises ConfigurationError for another form."""
    overrides: dict[str, Any] = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigurationError(
                f"--set {assignment}", ["expected key=value, such as http.port=9000"]
            )
        key = key.strip()
        if key in secret_keys(Settings) and ("@" in value or "://" not in value):
            variable = PREFIX + key.upper().replace(".", DELIMITER)
            raise ConfigurationError(
                f"--set {key}=...",
                [f"everybody on this machine can read a command line: set {variable}, or the file"],
            )
        overrides[key] = value
    return overrides


def default_config() -> Path | None:
    """Return the settings file used when none is named: ./esper.toml, if there is one."""
    path = Path("esper.toml")
    return path if path.is_file() else None


def _from_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """Return the variables of the form ESPER_SECTION__KEY as a document.

    Variables without the double underscore (ESPER_API_TOKEN, say) are no settings.
    """
    found = [
        (name.removeprefix(PREFIX).lower(), value)
        for name, value in environment.items()
        if name.startswith(PREFIX) and DELIMITER in name
    ]
    return _nested(found, DELIMITER)


def _nested(items: Iterable[tuple[str, Any]], delimiter: str) -> dict[str, Any]:
    document: dict[str, Any] = {}
    for name, value in items:
        *sections, key = name.split(delimiter)
        target = document
        for section in sections:
            inner = target.setdefault(section, {})
            if not isinstance(inner, dict):
                raise ConfigurationError(name, [f"{section!r} is given a value of its own as well"])
            target = inner
        target[key] = value
    return document


def _lay_over(below: dict[str, Any], above: Mapping[str, Any]) -> None:
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(below.get(key), dict):
            _lay_over(below[key], value)
        else:
            below[key] = dict(value) if isinstance(value, Mapping) else value


def _origin(location: Sequence[int | str], sources: Mapping[str, Mapping[str, Any]]) -> str:
    """Return which source gave the value at `location`, in brackets; empty if none did."""
    for name, document in sources.items():
        value: Any = document
        for part in location:
            if not isinstance(value, Mapping) or part not in value:
                break
            value = value[part]
        else:
            return f" ({name})"
    return ""
