"""Field reports: what each carried-out command brought, told once, when its window closes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.quantity import Quantity
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.stage import Stage

_BEFORE_BLENDING = (Stage.GERMINATED, Stage.TRAINING)


@dataclass(slots=True)
class _Window:
    """An open window: the command, its seeds, and the state of affairs when it was carried out."""

    command_id: str
    operation: str
    seeds: list[str]
    boundary: int
    step: int
    metrics: dict[str, float]


@dataclass(slots=True)
class ReportBook:
    """Opens a window for every command carried out and closes each exactly once.

    A tournament's window ends when its winner's first judgement past the ramp is in, or with the
    last of its seeds; a cull's after `cull_boundaries`. Report ids follow from run and command, so
    that a resumed run tells the same report under the same id.
    """

    run_id: str
    policy: str
    policy_version: str
    cull_boundaries: int = 3
    _open: list[_Window] = field(default_factory=list)

    def open(
        self,
        command_id: str,
        operation: str,
        seeds: Iterable[str],
        *,
        boundary: int,
        step: int,
        metrics: Mapping[str, float],
    ) -> None:
        """Open the window of a command that was just carried out."""
        self._open.append(
            _Window(command_id, operation, list(seeds), boundary, step, dict(metrics))
        )

    def close_due(
        self, seeds: Mapping[str, Seed], *, boundary: int, metrics: Mapping[str, float]
    ) -> list[dict[str, Any]]:
        """Return the reports of the windows that end at this boundary, and close them."""
        due = [window for window in self._open if self._is_due(window, seeds, boundary)]
        self._open = [window for window in self._open if window not in due]
        return [self._report(window, seeds, boundary, metrics) for window in due]

    def close_all(
        self, seeds: Mapping[str, Seed], *, boundary: int, metrics: Mapping[str, float]
    ) -> list[dict[str, Any]]:
        """Return the reports of every open window, at the end of the run."""
        due, self._open = self._open, []
        return [self._report(window, seeds, boundary, metrics) for window in due]

    def abort_after(
        self, seeds: Mapping[str, Seed], *, to_boundary: int, boundary: int
    ) -> list[dict[str, Any]]:
        """Return the reports of the windows opened past a rollback's target, and close them."""
        lost = [window for window in self._open if window.boundary > to_boundary]
        self._open = [window for window in self._open if window not in lost]
        return [
            self._report(window, seeds, boundary, {}) | {"outcome": "ABORTED"} for window in lost
        ]

    def _is_due(self, window: _Window, seeds: Mapping[str, Seed], boundary: int) -> bool:
        if window.operation != "GERMINATE":
            return boundary >= window.boundary + self.cull_boundaries
        members = [seeds[seed_id] for seed_id in window.seeds]
        if any(seed.stage is Stage.FOSSILIZED or seed.windows for seed in members):
            return True
        return all(seed.ended for seed in members)

    def _report(
        self,
        window: _Window,
        seeds: Mapping[str, Seed],
        boundary: int,
        metrics: Mapping[str, float],
    ) -> dict[str, Any]:
        members = [seeds[seed_id] for seed_id in window.seeds]
        winner = _winner(members)
        told = winner or members[0]
        return {
            "report_id": f"{self.run_id}/{window.command_id}",
            "command_id": window.command_id,
            "operation": window.operation,
            "seed": told.id,
            "blueprint": told.candidate.blueprint,
            "site": told.site.name,
            "parameters": told.parameter_count,
            "outcome": _outcome(window.operation, winner),
            "clean_contribution": _json(told.clean_contribution),
            "dependence": _json(told.dependence),
            "benefit_vs_twin": _json(told.benefit_vs_twin) if winner else None,
            "window": {"from": window.boundary, "to": boundary},
            "losers": [_loser(seed) for seed in members if seed is not told],
            "observed_change": {
                name: metrics[name] - before
                for name, before in window.metrics.items()
                if name in metrics
            },
            "policy": self.policy,
            "policy_version": self.policy_version,
        }

    def state_dict(self) -> list[dict[str, Any]]:
        """Return the open windows."""
        return [
            {name: getattr(window, name) for name in _Window.__slots__} for window in self._open
        ]

    def load_state_dict(self, state: Sequence[Mapping[str, Any]]) -> None:
        """Take over what `state_dict` returned."""
        self._open = [_Window(**window) for window in state]


def _winner(members: Sequence[Seed]) -> Seed | None:
    """Return the seed that was blended, if one was."""
    for seed in members:
        if seed.stage is Stage.FOSSILIZED or seed.dependence is not None or seed.windows:
            return seed
        if not seed.ended and seed.stage not in _BEFORE_BLENDING:
            return seed
    return None


def _outcome(operation: str, winner: Seed | None) -> str:
    if operation != "GERMINATE" or winner is None:
        return "NEUTRAL"
    benefit = winner.benefit_vs_twin
    if winner.stage is Stage.FOSSILIZED:
        return "SUCCESS"
    if benefit is not None and benefit.high < 0:
        return "REGRESSION"
    return "NEUTRAL"


def _loser(seed: Seed) -> dict[str, Any]:
    failed: GateResult | None = next((gate for gate in seed.gates if not gate.passed), None)
    return {
        "seed": seed.id,
        "site": seed.site.name,
        "blueprint": seed.candidate.blueprint,
        "clean_contribution": _json(seed.clean_contribution),
        "failed_gate": None if failed is None else failed.name,
    }


def _json(quantity: Quantity | None) -> dict[str, Any] | None:
    return None if quantity is None else quantity.to_json()
