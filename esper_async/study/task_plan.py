"""What plans of studies, collections and gates say of a task, and the terms they have in common."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from esper_async.runtime.strict_model import ConfigurationError, StrictModel

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]{0,59}$")]
Rate = Annotated[float, Field(gt=0, lt=100)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]


class TaskPlan(StrictModel):
    """A task on a host: a callable as in a run file, and what it is called with.

    `width` names the option that `wide` and `costly` arms turn, and `widest` is its upper end.
    "shuffled" labels are dealt anew among the samples of each split: there is nothing to learn.
    """

    task: str = Field(pattern=r"^.+:[A-Za-z_][A-Za-z0-9_]*$")
    epochs: int = Field(ge=1, le=100_000)
    options: dict[str, Any] = Field(default_factory=dict)
    rate_option: str = "learning_rate"
    schedule_option: str = "schedule"
    labels: Literal["true", "shuffled"] = "true"
    width: str = "width"
    widest: int = Field(default=512, ge=1)


def absolute_tasks(plan: str, tasks: Mapping[str, TaskPlan], base: Path) -> dict[str, TaskPlan]:
    """Make the paths of task files absolute: they are relative to the folder of the plan's file.

    Raises:
        ConfigurationError: a file is not there.
    """
    found = {}
    for name, task in tasks.items():
        place, _, function = task.task.rpartition(":")
        if place.endswith(".py"):
            file = (base / place).resolve()
            if not file.is_file():
                raise ConfigurationError(plan, [f"tasks.{name}: there is no file {file}"])
            task = task.model_copy(update={"task": f"{file}:{function}"})
        found[name] = task
    return found
