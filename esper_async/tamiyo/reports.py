"""Field reports: what each carried-out command brought, told once, when its window closes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.quantity import Quantity
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.outcome import LEAST_MARGIN, Interval, Verdict, verdict

_BEFORE_BLENDING = (Stage.GERMINATED, Stage.TRAINING)


@dataclass(slots=True)
class _Window:
    """An open window: the command, its seeds, and the state of affairs when it was carried out.

    `mitigations` are what the risk engine had done to the command; `spent` what the host and
    growing had cost by then, in multiply-accumulates; `policy` and its version gave the command.
    """

    command_id: str
    operation: str
    seeds: list[str]
    boundary: int
    step: int
    metrics: dict[str, float]
    mitigations: list[str] = field(default_factory=list)
    spent: tuple[float, float] | None = None
    policy: str = ""
    policy_version: str = ""


@dataclass(frozen=True, slots=True)
class Costs:
    """What a report bills: parameters of the host, and what host and growing have cost so far."""

    host_parameters: int
    spent: tuple[float, float]


@dataclass(slots=True)
class ReportBook:
    """Opens a window for every command carried out and closes each exactly once.

    A tournament's window ends with the verdict on its winner, which may take several judgements: it
    is kept, or the last of its seeds has ended; a cull's after `cull_boundaries`. Report ids follow
    from run and command, so that a resumed run tells the same report under the same id.
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
        mitigations: Iterable[str] = (),
        spent: tuple[float, float] | None = None,
    ) -> None:
        """Open the window of a command that was just carried out."""
        seen, told = dict(metrics), list(mitigations)
        self._open.append(
            _Window(
                command_id, operation, list(seeds), boundary, step, seen, told, spent,
                self.policy, self.policy_version,
            )
        )  # fmt: skip

    def close_due(
        self,
        seeds: Mapping[str, Seed],
        *,
        boundary: int,
        metrics: Mapping[str, float],
        costs: Costs | None = None,
    ) -> list[dict[str, Any]]:
        """Return the reports of the windows that end at this boundary, and close them."""
        due = [window for window in self._open if self._is_due(window, seeds, boundary)]
        self._open = [window for window in self._open if window not in due]
        return [self._report(window, seeds, boundary, metrics, costs) for window in due]

    def close_all(
        self,
        seeds: Mapping[str, Seed],
        *,
        boundary: int,
        metrics: Mapping[str, float],
        costs: Costs | None = None,
    ) -> list[dict[str, Any]]:
        """Return the reports of every open window, at the end of the run."""
        due, self._open = self._open, []
        return [self._report(window, seeds, boundary, metrics, costs) for window in due]

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
        if any(seed.stage is Stage.FOSSILIZED for seed in members):
            return True
        return all(seed.ended for seed in members)

    def _report(
        self,
        window: _Window,
        seeds: Mapping[str, Seed],
        boundary: int,
        metrics: Mapping[str, float],
        costs: Costs | None = None,
    ) -> dict[str, Any]:
        members = [seeds[seed_id] for seed_id in window.seeds]
        winner = _winner(members)
        told = winner or members[0]
        found = _verdict(window.operation, winner)
        return {
            "report_id": f"{self.run_id}/{window.command_id}",
            "command_id": window.command_id,
            "operation": window.operation,
            "seed": told.id,
            "blueprint": told.candidate.blueprint,
            "site": told.site.name,
            "parameters": told.parameter_count,
            "stage": told.stage.name,
            **_ratios(told, window.spent, costs),
            "outcome": found.outcome,
            "rule": found.rule,
            "margin": found.margin,
            "confidence": found.confidence,
            "clean_contribution": _json(told.clean_contribution),
            "dependence": _json(told.dependence),
            "benefit_vs_twin": _json(told.benefit_vs_twin) if winner else None,
            "window": {"from": window.boundary, "to": boundary},
            "cost": _cost(members),
            "mitigations": list(window.mitigations),
            "losers": [_loser(seed) for seed in members if seed is not told],
            "observed_change": {
                name: metrics[name] - before
                for name, before in window.metrics.items()
                if name in metrics
            },
            "policy": window.policy or self.policy,
            "policy_version": window.policy_version or self.policy_version,
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


def _verdict(operation: str, winner: Seed | None) -> Verdict:
    """Judge a window by the benefit of the seed that was blended, and by nothing else."""
    if operation != "GERMINATE":
        return Verdict("NEUTRAL", f"a {operation} has nothing to be compared with")
    if winner is None:
        return Verdict("NEUTRAL", "no candidate was blended")
    benefit = winner.benefit_vs_twin
    if benefit is None:
        return verdict(None)
    told = Interval(benefit.mean, benefit.low, benefit.high, benefit.estimated)
    return verdict(told, margin=_margin(winner, estimated=benefit.estimated))


def _margin(winner: Seed, *, estimated: bool) -> float:
    """Return the margin that G4 asked of a seed, as for one that has a twin."""
    margins = [gate.numbers.get("margin") for gate in winner.gates if gate.name == "G4"]
    asked = margins[-1] if margins else None
    if asked is None:
        return LEAST_MARGIN
    return asked / 2.0 if estimated else asked


def _cost(members: Sequence[Seed]) -> dict[str, int]:
    """Return what a command took: candidates, shadow passes, and parameters that stay."""
    return {
        "candidates": len(members),
        "shadow_passes": sum(seed.shadow_passes for seed in members),
        "parameters_kept": sum(
            seed.parameter_count for seed in members if seed.stage is Stage.FOSSILIZED
        ),
    }


def _ratios(
    seed: Seed, before: tuple[float, float] | None, costs: Costs | None
) -> dict[str, float | None]:
    """Return what a seed adds to the host's parameters, and what its window cost beside it.

    Windows that are open at the same time are each billed the whole.
    """
    if costs is None:
        return {"parameter_ratio": None, "compute_ratio": None}
    parameters = seed.parameter_count / max(costs.host_parameters, 1)
    if before is None or (host := costs.spent[0] - before[0]) <= 0.0:
        return {"parameter_ratio": parameters, "compute_ratio": None}
    return {"parameter_ratio": parameters, "compute_ratio": (costs.spent[1] - before[1]) / host}


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
