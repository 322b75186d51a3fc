"""Where a training process dies: at a named place in its code, or wherever it is after a time."""

import os
import pkgutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from esper_async.study.bench.benchmark import replaced


class Progress(Protocol):
    """Whoever knows how far a life has come."""

    step: int


@dataclass(frozen=True, slots=True)
class Place:
    """Right before the `call`-th call of `target`, or right after it, once a step was reached.

    `of` picks the calls that count, by their arguments.
    """

    target: str
    call: int = 1
    after: bool = False
    of: Callable[..., bool] = lambda *_, **__: True


def _a_manifest(temporary: Path, *_: object) -> bool:
    return temporary.parent.name == "checkpoints" and ".json" in temporary.name


_TOLARIA, _KASMINA = "esper_async.tolaria", "esper_async.kasmina"
PLACES = {
    "a checkpoint: its first records are written": Place(
        f"{_TOLARIA}.checkpoint_file._Sink.write", call=10
    ),
    "a checkpoint: all of it is written, nothing vouches for it": Place(
        f"{_TOLARIA}.checkpoint_file.write_json_atomically"
    ),
    "a checkpoint: its manifest is written, not in place": Place(
        "pathlib.Path.replace", of=_a_manifest
    ),
    "a checkpoint: it counts, the one too many is still there": Place(
        f"{_TOLARIA}.checkpoint.remove"
    ),
    "a germination: decided, nothing planted": Place(f"{_KASMINA}.executor.Executor.germinate"),
    "a germination: some of its seeds planted": Place(
        f"{_KASMINA}.executor.Executor._plant", call=2
    ),
    "a blend: between two steps": Place(f"{_KASMINA}.trial.Trial.after_step"),
    "a twin: trained on the batch, its average is not": Place(
        f"{_KASMINA}.averaging.WeightAverage.update"
    ),
    "a twin: taken over by the run": Place(f"{_KASMINA}.trial.Trial.withdraw", after=True),
    "a rollback: told, nothing dropped": Place(f"{_TOLARIA}.recovery.Recovery.drop_after"),
    "a rollback: newer states dropped": Place(f"{_TOLARIA}.grower.Grower.ungrow"),
    "a rollback: gone back, not yet slower": Place(f"{_TOLARIA}.grower.Grower.slow_down"),
    "a boundary: some of its records are told": Place(
        f"{_TOLARIA}.run_journal.RunJournal.record", call=5
    ),
}


@dataclass(frozen=True, slots=True)
class Death:
    """At a place of `PLACES` from a step on; without one, after a share of a whole life's time."""

    place: str | None = None
    step: int = 0
    share: float = 0.0

    @property
    def kind(self) -> str:
        """What the process is at; "any" where chance says it."""
        return "any" if self.place is None else self.place.partition(":")[0]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


@contextmanager
def dying(death: Death, progress: Progress) -> Iterator[None]:
    """Have this process die by SIGKILL at a death's place, if it has one."""
    if death.place is None:
        yield
        return
    place = PLACES[death.place]
    whole = pkgutil.resolve_name(place.target)
    calls = 0

    def watched(*given: Any, **named: Any) -> Any:
        nonlocal calls
        calls += progress.step >= death.step and place.of(*given, **named)
        if calls == place.call and not place.after:
            die()
        result = whole(*given, **named)
        if calls == place.call:
            die()
        return result

    with replaced(place.target, watched):
        yield


def die() -> None:
    """End this process as a power cut would: nothing is flushed or closed."""
    os.kill(os.getpid(), signal.SIGKILL)
