"""Who says that an alert fires: Nissa, and a real Prometheus that scrapes with the shipped rules.

The drill's Prometheus has every time of the rules shortened as the drill's Nissa has; the rules
with their real times are what `promtool test rules` tests.
"""

import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Protocol

from esper_async.cli.client import Client
from esper_async.cli.failure import CommandError
from esper_async.drills.stage import Stage, StageError
from esper_async.nissa.alert_rules import RULES
from esper_async.nissa.prometheus import free_port, prometheus_program
from esper_async.nissa.watch import TOLD

SHIPPED = Path(__file__).parents[2] / "config" / "nissa"
PATIENCE_S, _POLL_S = 30.0, 0.1
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_RULES = {rule.name for rule in RULES}
_RULE_FILES = ("recording.yml", "alerts.yml")


class Firing(NamedTuple):
    """An alert that fires, and what it is about."""

    name: str
    labels: Mapping[str, str]


class Judge(Protocol):
    """Somebody who evaluates alerts."""

    name: str

    def firing(self) -> list[Firing] | None:
        """What fires now; None while the judge does not answer."""
        ...


class Nissa:
    """The supervisor's own evaluation."""

    name = "nissa"

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def firing(self) -> list[Firing] | None:
        """The active alerts; None while the supervisor does not answer."""
        try:
            alerts = Client.of(self._stage.state_dir).get("/api/alerts")
        except CommandError:
            return None
        return [
            Firing(alert["name"] if alert["name"] in _RULES else TOLD, alert["labels"])
            for alert in alerts
            if alert["state"] != "resolved"
        ]


class Prometheus:
    """A server of its own, by its API."""

    name = "prometheus"

    def __init__(self, url: str) -> None:
        self._client = Client(url, None)

    def firing(self) -> list[Firing] | None:
        """The alerts that have held for their time; None while it does not answer."""
        try:
            answer = self._client.get("/api/v1/alerts")
        except CommandError:
            return None
        alerts = answer["data"]["alerts"]
        return [
            Firing(alert["labels"]["alertname"], alert["labels"])
            for alert in alerts
            if alert["state"] == "firing"
        ]


@contextmanager
def prometheus_beside(
    folder: Path, target: str, *, shorter: int, rules: Path = SHIPPED / "rules"
) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes `target` (host:port) every second, with times `shorter`.

    Raises StageError when there is none, or it does not come up.
    """
    program = prometheus_program("prometheus")
    if program is None:
        raise StageError("needs Prometheus: apt-get install prometheus")
    address = f"127.0.0.1:{free_port()}"
    with (folder / "prometheus.log").open("w") as said, subprocess.Popen(
        [
            program, f"--config.file={_configuration(folder, target, rules, shorter)}",
            f"--storage.tsdb.path={folder / 'prometheus'}", f"--web.listen-address={address}",
        ],
        stdout=said, stderr=said,
    ) as server:  # fmt: skip
        judge = Prometheus(f"http://{address}")
        try:
            deadline = time.monotonic() + PATIENCE_S
            while judge.firing() is None:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise StageError(
                        f"Prometheus did not come up: {(folder / 'prometheus.log').read_text()}"
                    )
                time.sleep(_POLL_S)
            yield judge
        finally:
            server.terminate()


def _configuration(folder: Path, target: str, rules: Path, shorter: int) -> Path:
    """The shipped configuration for this target, looking every second."""
    for name in _RULE_FILES:
        (folder / name).write_text(shortened((rules / name).read_text(), shorter))
    text = (SHIPPED / "prometheus.yml").read_text()
    text = text.replace("127.0.0.1:8787", target).replace("rules/", f"{folder}/")
    text = re.sub(r"_interval: \w+", "_interval: 1s", text)
    path = folder / "prometheus.yml"
    path.write_text(text)
    return path


def shortened(rules: str, shorter: int) -> str:
    """Return rules with hold times, windows and thresholds of waiting divided by `shorter`."""

    def divided(match: re.Match[str]) -> str:
        before, number, unit = match.groups()
        seconds = int(number) * _SECONDS[unit or "s"] / shorter
        if seconds != int(seconds):
            raise ValueError(f"{match.group()!r} is not a multiple of {shorter} s")
        return f"{before}{int(seconds)}{'s' if unit else ''}"

    rules = re.sub(r"(for: |\[)(\d+)([smhd])\b", divided, rules)
    return re.sub(r"(_wait_seconds >= )(\d+)()", divided, rules)
