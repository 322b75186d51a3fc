"""The plan of a collection: which tasks, under which policies, how many runs of each."""

from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from esper_async.runtime.strict_model import ConfigurationError, StrictModel, problems_of
from esper_async.runtime.toml_file import read_toml
from esper_async.study.measured_plan import hash_of
from esper_async.study.task_plan import Name, Rate, Seed, TaskPlan, absolute_tasks
from esper_async.tolaria.run_file import POLICIES as RUN_POLICIES

DRAWING = ("random", "periodic", "largest", "bandit", "gnn", "learned")
"""The policies that draw what they do, and record how likely it was."""


class CollectedTask(TaskPlan):
    """A task as in a study, with the learning rate that it is trained at."""

    rate: Rate = 0.01


class CollectionPlan(StrictModel):
    """A whole collection file.

    Run number n of a policy on a task has the seed `first_seed + n`, and is paired with a run of
    the same seed that does not grow, unless `baseline` is false: what growing brought in all is the
    terminal term of its reward.
    """

    name: Name
    policies: tuple[str, ...] = Field(default=("random",), min_length=1)
    runs: int = Field(ge=1, le=10_000)
    first_seed: Seed = 1_000
    baseline: bool = True
    growth: dict[str, Any] = Field(default_factory=dict)
    blueprints: tuple[str, ...] = ()
    tasks: dict[Name, CollectedTask] = Field(min_length=1)

    @field_validator("policies")
    @classmethod
    def _draw(cls, policies: tuple[str, ...]) -> tuple[str, ...]:
        for policy in policies:
            if policy not in DRAWING:
                known = "has no" if policy in RUN_POLICIES else "is unknown; these have"
                raise ValueError(
                    f"{policy!r} {known} probabilities to learn from: choose from "
                    f"{', '.join(DRAWING)}"
                )
        if len(set(policies)) < len(policies):
            raise ValueError("a policy is named twice")
        return policies

    @property
    def seeds(self) -> range:
        """The seeds of each policy's runs on each task."""
        return range(self.first_seed, self.first_seed + self.runs)

    @property
    def hash(self) -> str:
        """SHA-256 of all that the plan says."""
        return hash_of(self)


def load_collection(path: Path) -> CollectionPlan:
    """Read a collection file. Raises ConfigurationError listing every problem."""
    try:
        plan = CollectionPlan.model_validate(read_toml(path))
    except ValidationError as error:
        raise ConfigurationError(str(path), problems_of(error, CollectionPlan)) from None
    return plan.model_copy(update={"tasks": absolute_tasks(plan.name, plan.tasks, path.parent)})
