"""A trial: the one seed that is in the forward pass and must show that the run is better for it.

Beside the run a twin goes on from the instant before the blend, on the same batches, without the
seed. Both are judged on their averaged weights. A snapshot of that instant is kept as well: the run
goes back to it where there is no twin, or where the twin is not finite.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper_async.kasmina.averaging import WeightAverage
from esper_async.kasmina.branch import Branch
from esper_async.kasmina.call import Call, Forward
from esper_async.kasmina.evaluation import Variant
from esper_async.kasmina.memory import TwinChoice
from esper_async.kasmina.probe import Probe
from esper_async.kasmina.ramp import RampSchedule, ramp
from esper_async.kasmina.random_state import RandomStream
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.snapshot import Snapshot
from esper_async.kasmina.stage import Stage

TrainStep = Callable[[nn.Module, Optimizer, Any], Tensor]


class Trial:
    """One seed from BLENDING to its verdict.

    Args:
        branch: the run's own branch; the seed is attached to it at once, with alpha 0.
        seed: the seed on trial.
        choice: whether there is a twin; it is part of the trial's state.
        train_step: trains the twin on a batch; not called without one.
        stream: the twin's random numbers.
        ramp_steps: optimizer steps over which alpha rises to 1.
        schedule: how it rises.
        horizon_steps: horizon of the averaged weights.
    """

    def __init__(
        self,
        branch: Branch,
        seed: Seed,
        *,
        choice: TwinChoice,
        train_step: TrainStep | None,
        stream: RandomStream,
        ramp_steps: int,
        schedule: RampSchedule,
        horizon_steps: int,
    ) -> None:
        self.seed = seed
        self.branch = branch
        self.choice = choice
        self._before = Snapshot(branch)
        self._twin = branch.copy() if choice.twin else None
        self._modes = [] if self._twin is None else _pairs(branch.model, self._twin.model)
        self.stream = stream
        self.ramp_steps = max(ramp_steps, 1)
        self.ramp_step = 0
        self.held = False
        self._schedule = schedule
        self._alpha_before = 0.0
        self.boundaries_past_ramp = 0
        self._train_step = train_step
        self._horizon = horizon_steps
        self.average: WeightAverage | None = None
        self.twin_average: WeightAverage | None = None
        self.benefits: list[float] = []
        seed.graft.set_alpha(0.0)
        branch.attach(seed)

    @property
    def has_twin(self) -> bool:
        """Whether another branch is trained beside the run."""
        return self._twin is not None

    @property
    def twin(self) -> Branch:
        """The branch that goes on without the seed; there is one if `has_twin`."""
        assert self._twin is not None, "this trial has no twin"
        return self._twin

    @property
    def ramp_complete(self) -> bool:
        """Whether alpha has reached its target."""
        return self.ramp_step >= self.ramp_steps

    def after_step(self, batch: Any) -> None:
        """Go on by one optimizer step: alpha, the twin, the averages."""
        if not (self.ramp_complete or self.held or self.seed.paused):
            self.ramp_step += 1
            self.seed.graft.set_alpha(self._alpha())
        if self._twin is not None and self._train_step is not None:
            self._twin.follow_schedule(self.branch)
            for part, same in self._modes:
                same.training = part.training
            with self.stream.active():
                self._train_step(self._twin.trained_model, self._twin.optimizer, batch)
            self._twin.settle()
        if self.average is not None:
            self.average.update()
        if self.twin_average is not None:
            self.twin_average.update()

    def _alpha(self) -> float:
        share = ramp(self._schedule, self.ramp_step / self.ramp_steps)
        return self._alpha_before + (1.0 - self._alpha_before) * share

    def ramp_again(self, schedule: RampSchedule | None, steps: int | None) -> None:
        """Let alpha go on from where it is by another ramp; None keeps what it was."""
        self._alpha_before = self._alpha()
        self._schedule = schedule or self._schedule
        self.ramp_steps = self.ramp_steps if steps is None else max(steps, 1)
        self.ramp_step = 0
        self.held = False

    def start_averaging(self) -> None:
        """Begin the window: both branches are averaged from here on."""
        self.average = WeightAverage(self.branch.model, self._horizon)
        if self.has_twin:
            self.twin_average = WeightAverage(self.twin.model, self._horizon)

    def variants(self, forward: Forward) -> dict[str, Variant]:
        """Return what to evaluate at a boundary: the off-path, and the averaged branches.

        In SHADOWING the site is looked at on both paths.
        """
        alpha = f"{self.seed.site.path}.{self.seed.attribute}.alpha"
        call = Call(self.branch.model, forward)
        off = {alpha: torch.zeros_like(self.seed.graft.alpha)}
        found: dict[str, Variant] = {"off": _swapped(call, off)}
        if self.average is not None and self.average.steps:
            found["averaged"] = _swapped(call, self.average.tensors())
        if self.twin_average is not None and self.twin_average.steps:
            other = Call(self.twin.model, forward)
            found["twin"] = _swapped(other, self.twin_average.tensors())
        if self.seed.stage is Stage.SHADOWING:
            site = self.branch.model.get_submodule(self.seed.site.path)
            found |= {"host": Probe(call, site), "off": Probe(found["off"], site)}
        return found

    def keep(self) -> None:
        """End the trial with the seed in the network; the twin is dropped."""
        if self._twin is not None:
            self._twin.close()

    def withdraw(self) -> list[str]:
        """End the trial without the seed: the run takes over the twin, else goes back to before it.

        Returns the names of the twin's tensors that were not finite: with one of them it is not
        taken over.
        """
        self.branch.detach(self.seed)
        spoilt = [] if self._twin is None else self._before.spoilt_in(self._twin)
        if self._twin is None or spoilt:
            self._before.restore(self.branch)
        else:
            self.branch.adopt(self._twin)
        self.keep()
        return spoilt

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed trial needs beyond the run's own branch."""
        return {
            "seed": self.seed.id,
            "choice": self.choice.to_state(),
            "before": self._before.state_dict(),
            "twin": None if self._twin is None else self._twin.state_dict(),
            "stream": self.stream.state,
            "ramp_steps": self.ramp_steps,
            "ramp_step": self.ramp_step,
            "held": self.held,
            "schedule": self._schedule,
            "alpha_before": self._alpha_before,
            "boundaries_past_ramp": self.boundaries_past_ramp,
            "horizon": self._horizon,
            "benefits": list(self.benefits),
            "average": None if self.average is None else self.average.state_dict(),
            "twin_average": None if self.twin_average is None else self.twin_average.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned; the topology must be the same already."""
        self._before.load_state_dict(state["before"])
        if self._twin is not None:
            self._twin.load_state_dict(state["twin"])
        self.stream.state = state["stream"]
        for name in ("ramp_steps", "ramp_step", "held", "boundaries_past_ramp"):
            setattr(self, name, state[name])
        self._schedule, self._alpha_before = state["schedule"], state["alpha_before"]
        self.benefits = list(state["benefits"])
        self._horizon = state["horizon"]
        if state["average"] is not None:
            self.start_averaging()
            assert self.average is not None
            self.average.load_state_dict(state["average"])
        if self.twin_average is not None and state["twin_average"] is not None:
            self.twin_average.load_state_dict(state["twin_average"])


def _pairs(model: nn.Module, twin: nn.Module) -> list[tuple[nn.Module, nn.Module]]:
    return list(zip(model.modules(), twin.modules(), strict=True))


def _swapped(call: Call, tensors: dict[str, Tensor]) -> Variant:
    return lambda batch: call.with_tensors(tensors, batch)
