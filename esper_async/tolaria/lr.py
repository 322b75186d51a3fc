"""The one authority over learning rates: no group's rate changes but through it."""

import copy
import math
from collections.abc import Callable, Iterable, Mapping

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from esper_async.kasmina.seed import Seed
from esper_async.kasmina.seed_optimizer import base_rate
from esper_async.kasmina.stage import Stage
from esper_async.kasmina.user_code import blaming
from esper_async.tolaria.task import ScheduleEvery

_TOLERANCE = 1e-9


class LRController:
    """Sets the rates of the seeds at every step, and of the host as its schedule says.

    With a scheduler the host's groups are the authority's too: it verifies at each step that nobody
    else changed them, restores them if so, and counts it in `violations`. Without one (in somebody
    else's loop) they belong to the caller.

    A seed's rate warms up over `warmup_steps` to the host's base rate and stays there, whatever the
    host's schedule: a newborn on a decayed rate starves. A kept seed follows the host's schedule.

    Args:
        optimizer: the host's.
        warmup_steps: optimizer steps over which a new seed's rate rises.
        scheduler: the host's schedule.
        every: when that is stepped: at each "boundary" or after each "step".
        primary: the metric of a boundary for which a schedule waits that wants one to rise.
        on_violation: told of a rate that somebody else had changed.

    Attributes:
        factor: what every rate is multiplied by; `slow_down` lowers it.
        violations: how often a rate was restored.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        warmup_steps: int,
        scheduler: LRScheduler | None = None,
        every: ScheduleEvery = "boundary",
        primary: str = "validation_loss",
        on_violation: Callable[[str], object] | None = None,
    ) -> None:
        self._optimizer = optimizer
        self._scheduler = scheduler
        self._every = every
        self._primary = primary
        self._warmup = max(warmup_steps, 1)
        self._base = base_rate(optimizer)
        self._expected = self._host_rates()
        self._ages: dict[str, int] = {}
        self._on_violation = on_violation
        self.violations = 0
        self.factor = 1.0

    def step(self, seeds: Iterable[Seed]) -> None:
        """Set every rate for the coming step; the host's must be what they were set to."""
        if self._scheduler is not None:
            self._hold_host()
            if self._every == "step":
                self._advance(self._scheduler, {})
        before, self._ages = self._ages, {}  # of seeds that are there: others never come back
        for seed in seeds:
            if seed.optimizer is not None:
                age = before.get(seed.id, 0) + 1
                self._ages[seed.id] = age
                rate = self._rate(seed.stage, age, seed.given_rate)
                for group in seed.optimizer.param_groups:
                    group["lr"] = rate

    def boundary(self, metrics: Mapping[str, float]) -> None:
        """Let a schedule that is stepped at boundaries go on by one with these metrics."""
        if self._scheduler is not None and self._every == "boundary":
            self._advance(self._scheduler, metrics)

    def _advance(self, scheduler: LRScheduler, metrics: Mapping[str, float]) -> None:
        self._multiply(1.0 / self.factor)  # a schedule may go on from the rate it finds
        with blaming("scheduler.step"):
            if isinstance(scheduler, ReduceLROnPlateau):
                rises = scheduler.mode == "max"
                scheduler.step(metrics[self._primary if rises else "validation_loss"])
            else:
                scheduler.step()
        self._multiply(self.factor)
        self._expected = self._host_rates()

    def slow_down(self, factor: float) -> None:
        """Multiply the rates that are the authority's by `factor` for good, whatever is due."""
        self.factor *= factor
        self._multiply(factor)
        self._expected = self._host_rates()

    def _multiply(self, factor: float) -> None:
        if factor != 1.0 and self._scheduler is not None:
            for group in self._optimizer.param_groups:
                group["lr"] *= factor

    def host_rate(self) -> float:
        """Return the present rate of the host's first group."""
        return float(self._optimizer.param_groups[0]["lr"])

    def _rate(self, stage: Stage, age: int, given: float | None) -> float:
        if stage is Stage.FOSSILIZED:
            return self.host_rate() * min(1.0, age / self._warmup)
        base = given
        if base is None:  # a schedule that was made after us may name a higher one
            base = max(self._base, base_rate(self._optimizer))
        return self.factor * base * min(1.0, age / self._warmup)

    def _host_rates(self) -> list[float]:
        return [float(group["lr"]) for group in self._optimizer.param_groups]

    def _hold_host(self) -> None:
        groups = self._optimizer.param_groups
        for index, (group, expected) in enumerate(zip(groups, self._expected, strict=True)):
            if group["lr"] == expected:
                continue
            if not math.isclose(group["lr"], expected, rel_tol=_TOLERANCE):
                self.violations += 1
                if self._on_violation is not None:
                    self._on_violation(
                        f"the rate of group {index} was set to {group['lr']} from outside; "
                        f"restored to {expected}"
                    )
                group["lr"] = expected

    def state_dict(self) -> dict[str, object]:
        """Return the schedule's state and the seeds' ages in steps."""
        scheduler = None if self._scheduler is None else self._scheduler.state_dict()
        return {
            "scheduler": scheduler,
            "ages": dict(self._ages),
            "violations": self.violations,
            "factor": self.factor,
        }

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Take over what `state_dict` returned; the optimizer's own state is loaded before."""
        if self._scheduler is not None:
            assert isinstance(state["scheduler"], dict)
            self._scheduler.load_state_dict(copy.deepcopy(state["scheduler"]))
        ages, violations, factor = state["ages"], state["violations"], state["factor"]
        assert isinstance(ages, dict)
        assert isinstance(violations, int)
        assert isinstance(factor, float)
        self._ages, self.violations, self.factor = dict(ages), violations, factor
        self._expected = self._host_rates()
