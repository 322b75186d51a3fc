"""The plan of a study: what is compared, on what, over which seeds, and how it will be decided.

It is written down before anything runs, and its hash stands with the result. A plan that is
changed is another study.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from esper_async.runtime.strict_model import (
    ConfigurationError,
    StrictModel,
    nearest,
    problems_of,
)
from esper_async.runtime.toml_file import read_toml
from esper_async.study.collect.plan import CollectionPlan, load_collection
from esper_async.study.measured_plan import MeasuredPlan, hash_of
from esper_async.study.task_plan import Name, Rate, Seed, TaskPlan, absolute_tasks
from esper_async.tamiyo.shipped import LEARNED
from esper_async.tolaria.run_file import POLICIES as RUN_POLICIES

Kind = Literal["run", "longer", "wide", "costly", "scratch", "matched", "planted"]
REFERENCED: tuple[Kind, ...] = ("longer", "wide", "costly", "scratch", "matched")
"""Arms that take their measure from another arm's run with the same seed."""
POLICIES = (*RUN_POLICIES, "stalled")
"""Those of a run file, and one that a study alone has: growth by timing."""
Ablation = Literal["", "straight through", "gates read dependence", "no isolation"]
Schedule = Annotated[str, Field(min_length=1, max_length=60)]


@dataclass(frozen=True, slots=True)
class Setting:
    """What tuning settles of an arm.

    `schedule` is empty where the task has its own; `draw` numbers the stream that the policy draws
    from, None where each run draws from its own seed's.
    """

    rate: float
    schedule: str = ""
    draw: int | None = None

    def __str__(self) -> str:
        """Say it in words."""
        schedule = f", {self.schedule}" if self.schedule else ""
        return f"rate {self.rate:g}{schedule}{'' if self.draw is None else f', draw {self.draw}'}"


class Planting(StrictModel):
    """A kernel that an oracle plants at a boundary."""

    boundary: int = Field(ge=1)
    site: str
    blueprint: str


class ArmPlan(StrictModel):
    """A way of training.

    run: train under `policy`, with `growth` over the defaults. longer: for as many epochs as cost
    the host alone what `than` cost in all; a `policy` that grows comes on top of that. wide: the
    host alone, as wide as gives `than`'s final parameters. costly: as wide as costs what `than`
    cost in all, in the same epochs. scratch: the final network of `than`, newly initialised.
    matched: as many candidates as `than` planted, at the same boundaries, drawn evenly. planted: an
    oracle plants `plantings`. `ablation` takes one idea of growth away.

    With several `draws` the policy draws from so many streams on the seeds of tuning; the one that
    does best there is the stream of every run that is measured.
    """

    kind: Kind = "run"
    policy: str = "static"
    than: str = ""
    growth: dict[str, Any] = Field(default_factory=dict)
    blueprints: tuple[str, ...] = ()
    plantings: tuple[Planting, ...] = ()
    rates: tuple[Rate, ...] = ()
    schedules: tuple[Schedule, ...] = ()
    draws: int = Field(default=1, ge=1, le=1_000)
    ablation: Ablation = ""

    @field_validator("policy")
    @classmethod
    def _is_known(cls, policy: str) -> str:
        if policy not in POLICIES:
            raise ValueError(f"the policies are {', '.join(POLICIES)}")
        return policy

    @model_validator(mode="after")
    def _is_of_one_kind(self) -> "ArmPlan":
        if (self.kind in REFERENCED) != bool(self.than):
            raise ValueError(f"an arm of kind {self.kind!r} and than = {self.than!r}")
        if (self.kind == "planted") != bool(self.plantings):
            raise ValueError("plantings are what an arm of kind 'planted' has, and no other")
        if self.draws > 1 and self.kind != "run":
            raise ValueError("several draws are for an arm of kind 'run'")
        return self


class TuningPlan(StrictModel):
    """The rates and schedules that every arm is tried with, on seeds of their own.

    Each rate with each schedule, judged on validation; without schedules the task keeps its own.
    """

    rates: tuple[Rate, ...] = Field(min_length=1)
    schedules: tuple[Schedule, ...] = ()
    seeds: tuple[Seed, ...] = ()


class LearningPlan(StrictModel):
    """How the policy of the arms `learned` is made from scratch, before any arm is run.

    `collection` says which runs teach; a study file may name a file of it instead. `learner` makes
    the policy of what they told.
    """

    collection: CollectionPlan
    learner: Literal["awr", "bandit"]


class ComparisonPlan(StrictModel):
    """A question: does `treated` beat `control` by `more_than`, in the unit of the primary metric?

    It is answered by the lower end of the interval, or by the value itself. "no gain" asks the
    opposite, of what cannot help: is the lower end not above `more_than`? It is asked on each of
    `tasks`; of all, and over all of them, where there are none. With `most_parameters` the treated
    must also end with at most so many times the parameters of the control, on average.
    """

    treated: str
    control: str
    more_than: float = 0.0
    by: Literal["lower bound", "value", "no gain"] = "lower bound"
    tasks: tuple[str, ...] = ()
    most_parameters: float | None = Field(default=None, gt=0)

    @property
    def rule(self) -> str:
        """What must be, in words."""
        bound = f"not lower bound > {self.more_than:g}"
        found = bound if self.by == "no gain" else f"{self.by} > {self.more_than:g}"
        if self.most_parameters is None:
            return found
        return f"{found}, parameters ≤ {self.most_parameters:g} times"


class StudyPlan(MeasuredPlan):
    """A whole study file.

    `primary` is a metric of the test split, in hundredths where `percent`; "loss" is the other way
    round: less is better. Seed number n of an arm is `first_seed + n`, the same for every arm.
    """

    name: Name
    question: str = Field(min_length=1)
    decision: str = Field(min_length=1)
    primary: str = "accuracy"
    percent: bool = True
    first_seed: Seed = 0
    seeds: int = Field(ge=2, le=1_000)
    resamples: int = Field(default=2_000, ge=100, le=100_000)
    tuning: TuningPlan
    tasks: dict[Name, TaskPlan] = Field(min_length=1)
    arms: dict[Name, ArmPlan] = Field(min_length=1)
    comparisons: tuple[ComparisonPlan, ...] = ()
    learning: LearningPlan | None = None

    @model_validator(mode="after")
    def _refers_to_what_there_is(self) -> "StudyPlan":
        for name, arm in self.arms.items():
            self._check_arm(name, arm)
        for each in self.comparisons:
            for side in (each.treated, each.control):
                if side not in self.arms:
                    raise ValueError(f"a comparison names {side!r}; {self._meant(side)}")
            for task in each.tasks:
                if task not in self.tasks:
                    known = ", ".join(self.tasks)
                    raise ValueError(f"a comparison names the task {task!r}; there are {known}")
        measured = set(self.seeds_of_runs)
        if measured & set(self.tuning.seeds):
            raise ValueError("a seed that tunes an arm cannot judge it: tuning.seeds overlap")
        if self.learning is not None:
            self._check_learning(self.learning, measured)
        if not self.tuning.seeds and any(self.is_tuned(name) for name in self.arms):
            raise ValueError("several rates, schedules or draws, and no tuning.seeds to choose by")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 of all that the plan says; what it does not say is no part of it."""
        return hash_of(self, exclude=() if self.learning else ("learning",))

    @property
    def seeds_of_runs(self) -> tuple[int, ...]:
        """The seeds that are measured."""
        return tuple(range(self.first_seed, self.first_seed + self.seeds))

    def settings_of(self, arm: str) -> tuple[Setting, ...]:
        """What an arm is tried with first: every rate with every schedule."""
        own = self.arms[arm]
        schedules = own.schedules or self.tuning.schedules or ("",)
        rates = own.rates or self.tuning.rates
        return tuple(Setting(rate, schedule) for schedule in schedules for rate in rates)

    def draws_of(self, arm: str, chosen: Setting) -> tuple[Setting, ...]:
        """What an arm of several draws is tried with then: the chosen setting with each of them."""
        count = self.arms[arm].draws
        return tuple(replace(chosen, draw=draw) for draw in range(count)) if count > 1 else ()

    def is_tuned(self, arm: str) -> bool:
        """Whether an arm has more than one setting to choose from."""
        return len(self.settings_of(arm)) > 1 or self.arms[arm].draws > 1

    def _check_learning(self, learning: LearningPlan, measured: Collection[int]) -> None:
        if LEARNED not in {arm.policy for arm in self.arms.values()}:
            raise ValueError(f"learning makes the policy {LEARNED!r}, and no arm has it")
        if not set(learning.collection.seeds).isdisjoint(measured):
            raise ValueError("a seed that teaches cannot judge: those of learning.collection")

    def _check_arm(self, name: str, arm: ArmPlan) -> None:
        if not arm.than:
            return
        if arm.than not in self.arms:
            raise ValueError(f"arms.{name}.than = {arm.than!r}: {self._meant(arm.than)}")
        if self.arms[arm.than].kind in REFERENCED:
            raise ValueError(f"arms.{name}.than = {arm.than!r}, which itself leans on another arm")

    def _meant(self, name: str) -> str:
        near = nearest(name, self.arms)
        known = ", ".join(self.arms)
        return f"did you mean {near!r}?" if near else f"the arms are {known}"


def load_plan(path: Path) -> StudyPlan:
    """Read a study file. Raises ConfigurationError listing every problem."""
    document = read_toml(path)
    match document:
        case {"learning": {"collection": str(file)}}:
            document["learning"]["collection"] = load_collection(path.parent / file)
    try:
        plan = StudyPlan.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(str(path), problems_of(error, StudyPlan)) from None
    return plan.model_copy(update={"tasks": absolute_tasks(plan.name, plan.tasks, path.parent)})


def with_first_seed(plan: StudyPlan, first_seed: int) -> StudyPlan:
    """Return the same plan for other seeds: another study, with a hash of its own.

    Raises:
        ConfigurationError: one of those seeds tunes, or is out of range.
    """
    try:
        return StudyPlan.model_validate(plan.model_dump() | {"first_seed": first_seed})
    except ValidationError as error:
        raise ConfigurationError(plan.name, problems_of(error, StudyPlan)) from None
