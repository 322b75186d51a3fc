"""`drill alerts`: each shipped alert is provoked by its fault, must fire, and must resolve."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from esper_async.drills.alert_faults import ALERT_FAULTS, AlertFault
from esper_async.drills.drill import RUN, RUN_S, Progress, boundaries
from esper_async.drills.judges import SHIPPED, Judge, Nissa, prometheus_beside
from esper_async.drills.seams import TRAINING
from esper_async.drills.stage import Stage
from esper_async.nissa.prometheus import free_port, prometheus_program

SHORTER = 60
"""By so much hold times and windows are shorter than in earnest."""
FIRES_S, RESOLVES_S = 120.0, 900.0
"""The latter is long because a spent error budget comes back only as more goes well."""
_EVERY_S, _POLL_S = 0.25, 0.05
_SETTINGS = {
    "nissa.alert_every_s": _EVERY_S,
    "nissa.alert_hold_scale": 1 / SHORTER,
    "tezzeret.workers": 1,
}
_ONLY_PROMETHEUS = "esper_down"
_ENDLESS = {
    "run": {**RUN["run"], "name": "alerts", "epochs": 100_000},
    "growth": {**RUN["growth"], "policy": "random", "isolation_every": 1},
}
"""One that plants for as long as it goes on, whatever its losses say."""


class UnknownAlertError(ValueError):
    """No alert of that name is shipped."""


@dataclass(slots=True)
class Told:
    """What one judge said of one alert; seconds since the strike, and since it was over."""

    alert: str
    by: str
    fault: str
    fired_s: float | None = None
    resolved_s: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it fired and resolved."""
        return self.fired_s is not None and self.resolved_s is not None

    def to_json(self) -> dict[str, Any]:
        """The row as JSON values."""
        rounded = {
            name: None if value is None else round(value, 2)
            for name, value in (("fired_s", self.fired_s), ("resolved_s", self.resolved_s))
        }
        return {"alert": self.alert, "by": self.by, "fault": self.fault, **rounded, "ok": self.ok}


def known_alerts() -> tuple[str, ...]:
    """The names of the alerts that this drill can provoke, in their order."""
    return tuple(alert for fault in ALERT_FAULTS for alert in fault.alerts)


def not_provoked(*, with_prometheus: bool) -> dict[str, str]:
    """The alerts that are left out, each with the reason."""
    if with_prometheus:
        return {}
    reason = "only a Prometheus sees it, and none is installed: apt-get install prometheus"
    return {_ONLY_PROMETHEUS: reason}


def provoke_alerts(
    names: Sequence[str],
    tell: Progress,
    *,
    mutation: str = "",
    rules: Path = SHIPPED / "rules",
    fires_s: float = FIRES_S,
) -> Iterator[Told]:
    """Provoke the named alerts (all, without names); yield what each judge said of each.

    Raises UnknownAlertError before anything is started; StageError when the drill cannot be held.
    """
    for name in names:
        if name not in known_alerts():
            known = ", ".join(known_alerts())
            raise UnknownAlertError(f"the drill cannot provoke {name!r}: known: {known}")
    wanted = set(names or known_alerts())
    if prometheus_program("prometheus") is None:
        tell("there is no Prometheus here: only Nissa judges (apt-get install prometheus)")
        wanted.discard(_ONLY_PROMETHEUS)
    with TemporaryDirectory(prefix="esper-alerts-") as folder, ExitStack() as ending:
        port = free_port()
        stage = Stage(
            Path(folder), mutation=f"{TRAINING}\n{mutation}", settings=_SETTINGS, port=port
        )
        ending.callback(stage.clear)
        tell("a supervisor is started, and a run begun")
        stage.start()
        judges: list[Judge] = [Nissa(stage)]
        if prometheus_program("prometheus") is not None:
            beside = prometheus_beside(
                Path(folder), f"127.0.0.1:{port}", shorter=SHORTER, rules=rules
            )
            judges.append(ending.enter_context(beside))
        run_id = stage.submit(_ENDLESS)
        for fault in ALERT_FAULTS:
            if not wanted.intersection(fault.alerts):
                continue
            if fault.needs_run:
                stage.until(lambda: _under_way(stage, run_id), "a run under way", RUN_S)
            tell(f"{fault.name}: {fault.what}")
            yield from _strike(stage, fault, judges, wanted, fires_s)


def _under_way(stage: Stage, run_id: str) -> bool:
    trains = stage.child("train-") is not None and boundaries(stage, run_id) >= 3
    return trains and stage.ready()


def _strike(
    stage: Stage, fault: AlertFault, judges: Sequence[Judge], wanted: set[str], fires_s: float
) -> list[Told]:
    alerts = [alert for alert in fault.alerts if alert in wanted]
    rows = [
        Told(alert, judge.name, fault.what)
        for alert in alerts
        for judge in judges
        if alert != _ONLY_PROMETHEUS or not isinstance(judge, Nissa)
    ]
    stage.until(
        lambda: not any(firing for _, firing in _looked(rows, judges, fault.about)),
        f"an end of {' and '.join(alerts)}",
        RESOLVES_S,
    )
    with fault.lasts(stage) as keep:
        began = time.monotonic()
        while any(row.fired_s is None for row in rows) and time.monotonic() - began < fires_s:
            keep()
            for row, firing in _looked(rows, judges, fault.about):
                if firing and row.fired_s is None:
                    row.fired_s = time.monotonic() - began
            time.sleep(_POLL_S)
    fired = [row for row in rows if row.fired_s is not None]
    over = time.monotonic()
    while any(row.resolved_s is None for row in fired) and time.monotonic() - over < RESOLVES_S:
        for row, firing in _looked(fired, judges, fault.about):
            if not firing and row.resolved_s is None:
                row.resolved_s = time.monotonic() - over
        time.sleep(_POLL_S)
    return rows


def _looked(
    rows: Sequence[Told], judges: Sequence[Judge], about: Mapping[str, str]
) -> Iterator[tuple[Told, bool]]:
    """Yield each row with whether its alert fires now; none of a judge that does not answer."""
    for judge in judges:
        firing = judge.firing()
        if firing is None:
            continue
        names = {each.name for each in firing if about.items() <= each.labels.items()}
        for row in rows:
            if row.by == judge.name:
                yield row, row.alert in names
