"""What a run sums up while it trains, and what it leaves at its end."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import Tensor, nn

from esper_async.kasmina.evaluation import Evaluation
from esper_async.kasmina.executor import Executor
from esper_async.tolaria.grower import Grower

State = Literal["completed", "stopped", "drained"]


@dataclass(slots=True)
class Outcome:
    """How a run ended, with what it left: the grown model and what was recorded."""

    state: State
    grower: Grower
    history: list[dict[str, Any]]
    field_reports: list[dict[str, Any]]
    transitions: list[dict[str, Any]]
    decisions: list[dict[str, Any]]
    test: Evaluation | None
    wall_s: float
    compute: dict[str, float]


@dataclass(slots=True)
class Tally:
    """Sums since the last boundary: loss, steps, samples, seconds of steps.

    The loss is a tensor (), in float64, on a device that nobody wants to wait for each step.
    `accuracy` is that of the last step, None where it was not measured.
    `host_s` is the host's own part of the steps, `total_s` all of them. `whole` is False where the
    steps before a resume have no times.
    """

    loss: Tensor | float | None = None
    accuracy: Tensor | None = None
    steps: int = 0
    samples: int = 0
    host_s: float = 0.0
    total_s: float = 0.0
    whole: bool = True
    since: float = field(default_factory=time.perf_counter)

    @property
    def elapsed_s(self) -> float:
        """Seconds since the last boundary, the loader's included; of a resumed one, since then."""
        return time.perf_counter() - self.since

    def took(self, host_s: float, total_s: float) -> None:
        """Take in the seconds of one step: the host's own part, and all of it."""
        self.host_s += host_s
        self.total_s += total_s

    def metrics(self) -> dict[str, float]:
        """Return what is known of training since the last boundary; waits for the device."""
        assert self.loss is not None
        found = {"training_loss": float(self.loss) / self.steps}
        if self.accuracy is not None:
            found["training_accuracy"] = float(self.accuracy)
        return found

    def to_state(self) -> dict[str, Any]:
        """Return what a resumed run needs of it: times begin anew."""
        counted = {"loss": self.loss, "steps": self.steps, "samples": self.samples}
        return {**counted, "accuracy": self.accuracy, "whole": self.steps == 0}

    def add(self, loss: Tensor | float, samples: int, accuracy: Tensor | None = None) -> None:
        """Take in one step's loss, number of samples, and accuracy where it was measured."""
        self.accuracy = accuracy
        self.loss = loss if self.loss is None else self.loss + loss
        self.steps += 1
        self.samples += samples


@dataclass(slots=True)
class Overhead:
    """Seconds of a run's steps, and of the host's own part of them.

    Waiting for the loader and validation are in neither: a loop by hand has them, too.
    """

    host_s: float = 0.0
    total_s: float = 0.0

    def add(self, tally: Tally) -> float | None:
        """Take in a boundary's steps; return the time of all so far over the host's own."""
        self.host_s += tally.host_s
        self.total_s += tally.total_s
        return self.total_s / self.host_s if self.host_s else None


@dataclass(slots=True)
class WallClock:
    """Seconds a run has trained, over its resumes."""

    wall_s: float = 0.0
    since: float = field(default_factory=time.perf_counter)

    def total(self) -> float:
        """Return the seconds so far."""
        return self.wall_s + time.perf_counter() - self.since


def compute_of(executor: Executor | None, static_macs: float) -> dict[str, float]:
    """Return the multiply-accumulates of a run by what they were spent on."""
    if executor is None:
        return {
            "host_macs": static_macs,
            "shadow_macs": 0.0,
            "judging_macs": 0.0,
            "twin_macs": 0.0,
        }
    account = executor.compute
    return {
        "host_macs": account.host_macs,
        "shadow_macs": account.shadow_macs,
        "judging_macs": account.judging_macs,
        "twin_macs": account.twin_macs,
    }


def outcome_of(
    state: State,
    grower: Grower,
    history: list[dict[str, Any]],
    told: Mapping[str, list[dict[str, Any]]],
    test: Evaluation | None,
    wall_s: float,
    static_macs: float,
) -> Outcome:
    """Return how a run ended; `told` are its records, `static_macs` its cost where nothing grew."""
    return Outcome(
        state,
        grower,
        history,
        told["field_report"],
        told["transition"],
        told["decision"],
        test,
        wall_s,
        compute_of(grower.executor, static_macs),
    )


def parameters_of(model: nn.Module) -> int:
    """Return the number of a model's parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
