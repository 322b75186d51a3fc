"""The risk engine: signals to a score, the score to a level, the level to what may be done."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from esper_async.karn.catalogue import Catalogue
from esper_async.tamiyo.command import Command, Germinate, NoOp, PauseSeeds
from esper_async.tamiyo.risk.levels import RiskLevel
from esper_async.tamiyo.risk.mitigation import Governed, govern
from esper_async.tamiyo.risk.pauses import PauseQuota, PauseRefusedError
from esper_async.tamiyo.risk.signals import (
    Signal,
    SignalName,
    Surroundings,
    Usual,
    largest_gradient,
    measure,
)
from esper_async.tamiyo.risk.thresholds import WINDOWS, Thresholds
from esper_async.tamiyo.view import View

WEIGHTS: Mapping[SignalName, float] = {
    "gradient_stability": 0.85,
    "performance_drift": 0.90,
    "resource_pressure": 0.90,
    "latency": 0.65,
    "lifecycle": 0.30,
    "blueprint_risk": 0.30,
}
"""What each signal can come to alone."""
PATIENCE_BOUNDARIES = 3
"""Boundaries between two germinations in conservative mode, at the least."""
_MEMORY = 0.8


@dataclass(frozen=True, slots=True)
class Assessment:
    """What the engine said of a boundary's command.

    `command` is what may be carried out; in a deterministic run that is what was proposed, and the
    rest is told and no more. `unmeasured` are signals that nothing is known of; `pauses_left` is
    what the run still has of its quota.
    """

    level: RiskLevel
    score: float
    reason_code: str
    detail: str
    signals: Mapping[str, float]
    unmeasured: tuple[str, ...]
    command: Command
    mitigations: tuple[str, ...]
    conservative: bool
    pauses_left: int
    acts: bool

    def to_json(self) -> dict[str, Any]:
        """Return what records tell of it."""
        return {
            "level": self.level.name,
            "score": self.score,
            "reason_code": self.reason_code,
            "detail": self.detail,
            "signals": dict(self.signals),
            "unmeasured": list(self.unmeasured),
            "mitigations": list(self.mitigations),
            "conservative": self.conservative,
            "pauses_left": self.pauses_left,
            "acts": self.acts,
        }


class RiskEngine:
    """Weighs each boundary's command.

    Args:
        acts: whether what it says is done. A deterministic run is only told: no weight differs
            from those of a run without the engine.
        quota: of pauses.

    Attributes:
        conservative: whether it is in conservative mode.
    """

    def __init__(
        self, *, acts: bool, quota: PauseQuota | None = None, catalogue: Catalogue | None = None
    ) -> None:
        self.acts = acts
        self.conservative = False
        self.quota = quota or PauseQuota()
        self._catalogue = catalogue or Catalogue()
        self._thresholds = Thresholds()
        self._gradient: float | None = None
        self._loss: float | None = None
        self._calm = 0
        self._reason = "usual"
        self._germinated_at: int | None = None

    @property
    def level(self) -> RiskLevel:
        """The level that holds now."""
        return self._thresholds.level

    def preview(
        self, view: View, proposed: Command, surroundings: Surroundings
    ) -> tuple[float, RiskLevel]:
        """Return the score of a command, and the level that it comes to; remembers nothing."""
        usual = Usual(self._gradient, self._loss)
        score, _ = combine(measure(view, proposed, surroundings, usual, self._catalogue))
        return score, self._thresholds.reached(score, conservative=self.conservative)

    def weigh(self, view: View, proposed: Command, surroundings: Surroundings) -> Assessment:
        """Return what may be done of a proposed command, and why."""
        usual = Usual(self._gradient, self._loss)
        signals = measure(view, proposed, surroundings, usual, self._catalogue)
        score, chief = combine(signals)
        level = self._thresholds.take(score, conservative=self.conservative)
        if not self._thresholds.held:  # else the reason is still that of its rise
            self._reason = chief.reason_code if level > RiskLevel.GREEN else "usual"
        self._watch(level, surroundings)
        governed = Governed(proposed)
        if self.acts:
            governed = self._govern(level, proposed, view)
        self._remember(view)
        return Assessment(
            level=level,
            score=score,
            reason_code=self._reason,
            detail=chief.detail,
            signals={each.name: each.value for each in signals if each.value is not None},
            unmeasured=tuple(each.name for each in signals if each.value is None),
            command=governed.command,
            mitigations=governed.mitigations,
            conservative=self.conservative,
            pauses_left=self.quota.remaining,
            acts=self.acts,
        )

    def _govern(self, level: RiskLevel, proposed: Command, view: View) -> Governed:
        paused = tuple(seed.id for seed in view.seeds if seed.paused)
        if paused and level < RiskLevel.RED:
            return Governed(PauseSeeds(paused, paused=False), (f"{len(paused)} seeds go on",))
        hasty = self._is_hasty(proposed, view)
        governed = govern(
            level, NoOp() if hasty else proposed, view, self._catalogue,
            conservative=self.conservative,
        )  # fmt: skip
        told = ("longer between actions",) if hasty else ()
        command = governed.command
        if isinstance(command, PauseSeeds) and command.paused:
            try:
                self.quota.draw("risk", len(command.seeds))
            except PauseRefusedError as refusal:
                return Governed(NoOp(), (*told, "refused", str(refusal)))
        if isinstance(command, Germinate):
            self._germinated_at = view.boundary
        return Governed(command, (*told, *governed.mitigations))

    def _is_hasty(self, proposed: Command, view: View) -> bool:
        """Whether conservative mode wants a germination to wait."""
        if not (self.conservative and isinstance(proposed, Germinate)):
            return False
        last = self._germinated_at
        return last is not None and view.boundary - last < PATIENCE_BOUNDARIES

    def _watch(self, level: RiskLevel, surroundings: Surroundings) -> None:
        """Enter conservative mode at RED or at a missed deadline; leave it once calm has lasted."""
        missed = bool(surroundings.missed_deadlines)
        if level >= RiskLevel.RED or missed:
            self.conservative, self._calm = True, 0
        elif self.conservative:
            self._calm = self._calm + 1 if level is RiskLevel.GREEN else 0
            if self._calm >= WINDOWS:
                self.conservative = False

    def _remember(self, view: View) -> None:
        """Let what was measured become usual; what is out of the ordinary does not."""
        norm = largest_gradient(view)
        if norm is not None and math.isfinite(norm):
            before = norm if self._gradient is None else self._gradient
            self._gradient = _MEMORY * before + (1.0 - _MEMORY) * min(norm, 10.0 * before)
        loss = view.validation_losses[-1] if view.validation_losses else None
        if loss is not None and math.isfinite(loss):
            before = loss if self._loss is None else self._loss
            self._loss = _MEMORY * before + (1.0 - _MEMORY) * loss

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from."""
        return {
            "conservative": self.conservative,
            "quota": self.quota.state_dict(),
            "thresholds": self._thresholds.state_dict(),
            "gradient": self._gradient,
            "loss": self._loss,
            "calm": self._calm,
            "reason": self._reason,
            "germinated_at": self._germinated_at,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        self.conservative, self._calm = state["conservative"], state["calm"]
        self.quota.load_state_dict(state["quota"])
        self._thresholds.load_state_dict(state["thresholds"])
        self._gradient, self._loss = state["gradient"], state["loss"]
        self._germinated_at, self._reason = state["germinated_at"], state["reason"]


def combine(signals: list[Signal]) -> tuple[float, Signal]:
    """Return the score of signals and the one that weighs most.

    Each adds to the risk that the others leave: 1 - (1 - w v)(1 - w v)... A catastrophe is 1.
    """
    left = 1.0
    weighed: list[tuple[float, Signal]] = []
    for signal in signals:
        if signal.catastrophe:
            return 1.0, signal
        if signal.value is not None:
            part = WEIGHTS[signal.name] * signal.value
            left *= 1.0 - part
            weighed.append((part, signal))
    if not weighed:
        nothing = Signal("lifecycle", None, "nothing_measured", "no signal was measured")
        return 0.0, nothing
    return 1.0 - left, max(weighed, key=lambda entry: entry[0])[1]
