"""The run file: what a training run is asked to be, checked before anything is started.

The form is in `RunFile`; unknown keys are refused with the nearest known one. A name such as
`digits` means the run file `digits.toml` that comes with the package.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator

import esper_async
from esper_async.runtime.strict_model import ConfigurationError, StrictModel, nearest, problems_of
from esper_async.runtime.toml_file import read_toml

POLICIES = ("static", "random", "periodic", "largest", "heuristic", "bandit", "gnn", "learned")
_PACKAGE = Path(esper_async.__file__).parent
SHIPPED = (_PACKAGE.parent / "config" / "runs", _PACKAGE / "config" / "runs")

Policy = Literal["static", "random", "periodic", "largest", "heuristic", "bandit", "gnn", "learned"]
Trigger = Literal["plateau", "gradient", "gap"]
Tier = Literal["production", "experimental"]


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError("must be a finite number")
    return value


Finite = Annotated[float, AfterValidator(_finite)]


class RunSection(StrictModel):
    """What is trained, for how long, and where."""

    name: str = Field(default="", max_length=100)
    task: str
    epochs: int = Field(default=30, ge=1, le=1_000_000)
    seed: int = Field(default=0, ge=0, lt=2**63)
    device: str = Field(default="auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    threads: Literal["auto"] | Annotated[int, Field(ge=1, le=1024)] = "auto"
    boundary_every: Literal["epoch"] | Annotated[int, Field(ge=1)] = "epoch"
    deterministic: Literal["auto"] | bool = "auto"
    baselines: bool = False
    checkpoint_every: int = Field(default=1, ge=1)
    checkpoints_kept: int = Field(default=2, ge=1, le=1000)
    in_memory: int = Field(default=1, ge=0, le=100)
    in_memory_bytes: Literal["auto"] | Annotated[int, Field(ge=0)] = "auto"
    precision: Literal["32", "bf16-mixed", "16-mixed"] = "32"
    accumulate: int = Field(default=1, ge=1)
    patience: int = Field(default=0, ge=0)
    compile: Literal["off", "regions", "model"] = "off"
    compile_regions: Literal["auto"] | tuple[str, ...] = "auto"
    compile_backend: str = Field(default="inductor", max_length=100)
    options: dict[str, Any] = Field(default_factory=dict)

    @field_validator("task")
    @classmethod
    def _names_a_callable(cls, task: str) -> str:
        module, _, function = task.rpartition(":")
        if not module or not function.isidentifier():
            raise ValueError("a task is 'package.module:callable' or 'path/to/file.py:callable'")
        return task

    @field_validator("compile_regions")
    @classmethod
    def _goes_with_regions(cls, regions: Any, info: ValidationInfo) -> Any:
        if regions != "auto" and info.data.get("compile") != "regions":
            raise ValueError('names what is compiled where run.compile = "regions"')
        return regions


class GrowthSection(StrictModel):
    """What may grow, and by which policy. Limits and margins as in `kasmina.GrowthOptions`."""

    policy: Policy = "heuristic"
    triggers: tuple[Trigger, ...] = ()
    sites: Literal["auto"] | dict[str, str] = "auto"
    max_seeds: int = Field(default=4, ge=1, le=100)
    max_candidates: int = Field(default=8, ge=1, le=100)
    max_training: Literal["auto"] | Annotated[int, Field(ge=1, le=100)] = "auto"
    tournament: Literal["full", "halving"] = "full"
    first_round_steps: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    twin: Literal["auto", "on", "off"] = "auto"
    tiers: tuple[Tier, ...] = ("production",)
    parameter_budget: Finite = Field(default=8.0, gt=0)
    shadow_every: int = Field(default=2, ge=1)
    shadow_mode: Literal["sequential", "batched"] = "sequential"
    isolation_every: int = Field(default=50, ge=1)
    dwell_steps: int = Field(default=200, ge=1)
    ramp_boundaries: int = Field(default=3, ge=1)
    ramp: Literal["linear", "cosine", "sigmoid"] = "linear"
    window_boundaries: int = Field(default=3, ge=1)
    max_windows: int = Field(default=3, ge=1)
    embargo_boundaries: int = Field(default=2, ge=0)
    g2_margin: Finite = -0.02
    latency_budget: Annotated[Finite, Field(ge=1)] | None = None
    g4_margin: Finite = 0.005
    relative_margins: bool | Literal["auto"] = "auto"
    warmup_steps: int = Field(default=20, ge=0)
    clip_norm: Finite = Field(default=1.0, gt=0)
    fossilized_frozen: bool = False
    teacher_weight: float = Field(default=0.5, ge=0, le=1)
    teacher_temperature: Finite = Field(default=2.0, gt=0)

    @field_validator("triggers")
    @classmethod
    def _are_the_heuristics(cls, triggers: Any, info: ValidationInfo) -> Any:
        if triggers and info.data.get("policy") != "heuristic":
            raise ValueError('are what tournaments wait for where growth.policy = "heuristic"')
        return triggers

    @field_validator("tiers", mode="before")
    @classmethod
    def _adversarial_is_quarantined(cls, tiers: Any) -> Any:
        if isinstance(tiers, list | tuple) and "adversarial" in tiers:
            raise ValueError("the adversarial tier is refused for any live run")
        return tiers


class RunFile(StrictModel):
    """A whole run file; `run.task` is the one key without a default."""

    run: RunSection
    growth: GrowthSection = Field(default_factory=GrowthSection)


def parse_run(
    document: Mapping[str, Any], *, base: Path | None = None, source: str = "the run"
) -> RunFile:
    """Check a run file's content and return it with its task's path made absolute.

    `base` is the folder that a relative `file.py:callable` is relative to (default: the current
    one). Raises ConfigurationError listing every problem.
    """
    try:
        run_file = RunFile.model_validate(document)
    except ValidationError as error:
        raise ConfigurationError(source, problems_of(error, RunFile)) from None
    section = run_file.run
    module, _, function = section.task.rpartition(":")
    changes: dict[str, Any] = {}
    if module.endswith(".py"):
        path = ((base or Path.cwd()) / module).resolve()
        if not path.is_file():
            raise ConfigurationError(
                source, [f"run.task = {section.task!r}: there is no file {path}"]
            )
        changes["task"] = f"{path}:{function}"
    if not section.name:
        changes["name"] = Path(module).stem if module.endswith(".py") else module.split(".")[-1]
    if changes:
        run_file = run_file.model_copy(update={"run": section.model_copy(update=changes)})
    return run_file


def load_run(name_or_path: str) -> RunFile:
    """Return the run file of that path, or the shipped one of that name.

    Raises ConfigurationError naming what was looked for, and where.
    """
    path = find_run(name_or_path)
    document = read_toml(path)
    document.setdefault("run", {})
    if isinstance(document["run"], dict):
        document["run"].setdefault("name", path.stem)
    return parse_run(document, base=path.resolve().parent, source=str(path))


def find_run(name_or_path: str) -> Path:
    """Return where a run file is; raises ConfigurationError with the nearest name when nowhere."""
    path = Path(name_or_path).expanduser()
    if path.suffix == ".toml" or path.is_file():
        if path.is_file():
            return path
        raise ConfigurationError(
            f"run file {name_or_path!r}", [f"there is no file {path.absolute()}"]
        )
    for folder in SHIPPED:
        if (folder / f"{name_or_path}.toml").is_file():
            return folder / f"{name_or_path}.toml"
    suggestion = nearest(name_or_path, shipped_runs())
    hint = f"did you mean {suggestion!r}?" if suggestion else f"known: {', '.join(shipped_runs())}"
    raise ConfigurationError(
        f"run {name_or_path!r}",
        [f"it is neither a file here nor a run that comes with Esper; {hint}"],
    )


def shipped_runs() -> list[str]:
    """Return the names of the run files that come with the package."""
    return sorted({path.stem for folder in SHIPPED for path in folder.glob("*.toml")})
