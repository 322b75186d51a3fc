"""How somebody outside steers a run: asked once a batch, answered without waiting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

from esper_async.tolaria.emergency import Level

Kind = Literal["pause", "resume", "stop", "drain", "cull", "rollback", "emergency"]
Lasting = Literal["cull", "rollback", "emergency"]
"""Kinds that are done once, and are on disk before they are accepted."""
LASTING: tuple[Lasting, ...] = get_args(Lasting)


@dataclass(frozen=True, slots=True)
class Steer:
    """One request. `drain` stops with a checkpoint, to go on later; `stop` ends the run.

    `request` numbers what must be done once, though it may arrive more often. An emergency has a
    level, and says why.
    """

    kind: Kind
    seed: str | None = None
    boundary: int | None = None
    request: int | None = None
    level: Level | None = None
    reason: str = ""


def steer_of(kind: Lasting, fields: Mapping[str, Any]) -> Steer:
    """Read an operator's request from the fields with which it was written or sent."""
    if kind == "cull":
        return Steer("cull", seed=str(fields["seed"]), request=fields.get("request"))
    if kind == "emergency":
        level, reason = fields["level"], str(fields["reason"])
        return Steer("emergency", request=fields.get("request"), level=level, reason=reason)
    return Steer("rollback", boundary=fields.get("to_boundary"), request=fields.get("request"))


class Control(Protocol):
    """The engine's view of whoever steers it."""

    def poll(self) -> Sequence[Steer]:
        """Return and forget the requests since the last call; never blocks."""
        ...

    def heartbeat(self, step: int, **progress: Any) -> None:
        """Tell that a step was reached; cheap."""
        ...

    def wait(self, timeout_s: float) -> None:
        """Sleep while the run is paused, at most so long, less if a request arrives."""
        ...


class NoControl:
    """Nobody steers: a run in a script or a notebook."""

    def poll(self) -> Sequence[Steer]:
        """Return nothing."""
        return ()

    def heartbeat(self, step: int, **progress: Any) -> None:
        """Tell nobody."""

    def wait(self, timeout_s: float) -> None:
        """Not wait: nothing pauses such a run."""


class Announced:
    """Another's control whose heartbeats also say what is trained: `done` of `total` boundaries.

    What is trained is not the run itself: what is asked of that goes by.
    """

    def __init__(self, control: Control, phase: str, total: int) -> None:
        self._control = control
        self._phase = phase
        self._total = total

    def poll(self) -> Sequence[Steer]:
        """Return the other's requests to pause, go on or end."""
        return [steer for steer in self._control.poll() if steer.kind not in LASTING]

    def heartbeat(self, step: int, **progress: Any) -> None:
        """Tell the other, with the phase."""
        done = progress.get("boundary")
        self._control.heartbeat(step, **progress, phase=self._phase, done=done, total=self._total)

    def wait(self, timeout_s: float) -> None:
        """Sleep as the other does."""
        self._control.wait(timeout_s)
