"""The plan of a replay: on which tasks, over which seeds, judged by which metric."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

import esper_async
from esper_async.runtime.strict_model import ConfigurationError, problems_of
from esper_async.runtime.toml_file import read_toml
from esper_async.study.collect.plan import CollectedTask
from esper_async.study.measured_plan import MeasuredPlan
from esper_async.study.task_plan import Name, Seed, absolute_tasks

_PACKAGE = Path(esper_async.__file__).parent
_SHIPPED = (_PACKAGE.parent / "config" / "gates", _PACKAGE / "config" / "gates")


class GatePlan(MeasuredPlan):
    """A whole gate file.

    Run number n of either policy on a task has the seed `first_seed + n`: no run that taught may
    have it. They are judged by `primary` on the decision split, as publishing is a decision; "loss"
    is the other way round: less is better.
    """

    name: Name
    primary: str = "loss"
    runs: int = Field(default=12, ge=4, le=1_000)
    first_seed: Seed = 50
    resamples: int = Field(default=2_000, ge=100, le=100_000)
    growth: dict[str, Any] = Field(default_factory=dict)
    blueprints: tuple[str, ...] = ()
    tasks: dict[Name, CollectedTask] = Field(min_length=1)

    @property
    def seeds(self) -> range:
        """The seeds of either policy's runs on each task."""
        return range(self.first_seed, self.first_seed + self.runs)


def load_gate(file: Path | None) -> GatePlan:
    """Read a gate file; without one, that which comes along.

    Raises:
        ConfigurationError: every problem of it.
    """
    path = file or next((each for each in map(_in, _SHIPPED) if each.exists()), _in(_SHIPPED[0]))
    try:
        plan = GatePlan.model_validate(read_toml(path))
    except ValidationError as error:
        raise ConfigurationError(str(path), problems_of(error, GatePlan)) from None
    return plan.model_copy(update={"tasks": absolute_tasks(plan.name, plan.tasks, path.parent)})


def _in(folder: Path) -> Path:
    return folder / "mnist1d.toml"
