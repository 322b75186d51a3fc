"""What a run is asked for, as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from esper_async.kasmina.compiling.choice import CompileMode, Compiling
from esper_async.kasmina.compiling.region import Compiler
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.precision import PRECISIONS, PrecisionName, unknown_precision
from esper_async.tamiyo.policies import Policy, check_triggers, make_policy
from esper_async.tamiyo.policies.triggers import Trigger
from esper_async.tolaria.checkpoint import KEPT


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOptions:
    """How a run trains.

    Args:
        epochs: passes over the training loader.
        policy: name of the growth policy.
        triggers: of the heuristic: where there are any, a tournament after the first waits until
            one of them fires: "plateau", "gradient", "gap".
        seed: everything random in the run derives from it.
        name: how reports call the run.
        device: "auto" takes the first CUDA device, else the CPU.
        threads: torch threads; "auto" is all cores but one. They are part of the result's bits.
        boundary_every: a boundary after each epoch, or after so many steps and at the end.
        deterministic: True lets torch use no algorithm whose result may vary, and fails where there
            is no other; "auto" does the same on the CPU, and warns; elsewhere it leaves torch as it
            is.
        growth: limits, schedule and margins of growth.
        sites: site name to submodule path; found by tracing if None.
        baselines: train the host without growth, and the final net from scratch, for comparison.
        checkpoint_every: boundaries between checkpoints.
        checkpoints_kept: newest checkpoints that stay on disk; a rollback reaches no further back.
        in_memory: newest states that are kept in memory as well, for a rollback that is quick.
        in_memory_bytes: what those may take together, while the next one is copied, too; "auto" is
            checkpoints' share of the machine's memory.
        precision: of training passes: "32", or "bf16-mixed" or "16-mixed" under autocast, the last
            one with a gradient scaler for each owner. Evaluations run in single precision.
        accumulate: batches of an optimizer step; their gradients are averaged.
        patience: boundaries without a better primary metric after which training ends; 0 trains to
            the last epoch. A seed needs a dwell, a ramp and a window to show what it brings.
        compile: what of the host torch compiles for training: "off", "regions" of it, or the whole
            "model". A seed at a region's border costs no recompilation, one inside a pause.
        compile_regions: submodule paths, with `*` for any part of one; "auto" takes the largest
            submodules of several layers that have no site inside.
        compile_backend: of `torch.compile`.

    Raises:
        ValueError: a value is not allowed.
    """

    epochs: int
    policy: str = "heuristic"
    triggers: Sequence[Trigger] = ()
    seed: int = 0
    name: str = "run"
    device: str = "auto"
    threads: int | Literal["auto"] = "auto"
    boundary_every: int | Literal["epoch"] = "epoch"
    deterministic: bool | Literal["auto"] = "auto"
    growth: GrowthOptions = field(default_factory=GrowthOptions)
    sites: Mapping[str, str] | None = None
    baselines: bool = False
    checkpoint_every: int = 1
    checkpoints_kept: int = KEPT
    in_memory: int = 1
    in_memory_bytes: int | Literal["auto"] = "auto"
    precision: PrecisionName = "32"
    accumulate: int = 1
    patience: int = 0
    compile: CompileMode = "off"
    compile_regions: Literal["auto"] | Sequence[str] = "auto"
    compile_backend: str = "inductor"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, not {self.epochs}")
        check_triggers(self.policy, self.triggers)
        if self.boundary_every != "epoch" and self.boundary_every < 1:
            raise ValueError(f"boundary_every must be at least 1, not {self.boundary_every}")
        if self.precision not in PRECISIONS:
            raise ValueError(unknown_precision(self.precision))
        if self.accumulate < 1:
            raise ValueError(f"accumulate must be at least 1, not {self.accumulate}")
        if self.checkpoints_kept < 1:
            raise ValueError(f"checkpoints_kept must be at least 1, not {self.checkpoints_kept}")
        if self.in_memory < 0:
            raise ValueError(f"in_memory must be at least 0, not {self.in_memory}")
        if self.in_memory_bytes != "auto" and self.in_memory_bytes < 0:
            raise ValueError(f"in_memory_bytes must be at least 0, not {self.in_memory_bytes}")
        if self.patience < 0:
            raise ValueError(f"patience must be at least 0, not {self.patience}")
        if self.growth.latency_budget is not None and self.deterministic is not False:
            raise ValueError(
                "growth.latency_budget goes by the clock, which no deterministic run may; "
                "set run.deterministic = false, or leave the budget out"
            )
        self.compiling(deterministic=True)

    def make_policy(self) -> Policy:
        """Return the policy that the run names, as it begins; raises as `policies.make_policy`."""
        return make_policy(self.policy, self.seed, triggers=self.triggers)

    def compiling(
        self, *, deterministic: bool, taken_over: Mapping[str, Compiler] | None = None
    ) -> Compiling:
        """Return how the host is compiled, with what of it was `taken_over` as it was before.

        A deterministic run has a program for each shape: one for several would be made by the order
        in which shapes come, and a resumed run meets them in another.

        Raises:
            CompileError: two of the options do not go together.
        """
        return Compiling(
            mode=self.compile,
            regions=self.compile_regions,
            backend=self.compile_backend,
            dynamic=False if deterministic else None,
            taken_over=taken_over or {},
        )


class RunChangedError(ValueError):
    """A run's stored configuration was changed into one that would have been refused."""

    def __init__(self, problem: str) -> None:
        super().__init__(
            f"the run's run.json was changed after the run was submitted: {problem}; submit a run "
            "file instead"
        )


def options_from_run(config: Mapping[str, Any]) -> RunOptions:
    """Read the resolved configuration of a run (the sections `run` and `growth`).

    Raises:
        RunChangedError: it holds what no run that was submitted can hold.
    """
    run, growth = dict(config["run"]), dict(config["growth"])
    for task_only in ("task", "options"):
        run.pop(task_only, None)
    sites = growth.pop("sites")
    policy, triggers = growth.pop("policy"), tuple(growth.pop("triggers", ()))
    growth["tiers"] = tuple(growth["tiers"])
    known = {entry.name for entry in fields(GrowthOptions)}
    if growth.pop("drill", False):
        raise RunChangedError("growth.drill is for throw-away runs alone, and no run file has it")
    try:
        options = GrowthOptions(**{key: value for key, value in growth.items() if key in known})
    except ValueError as error:
        raise RunChangedError(str(error)) from error
    return RunOptions(
        **run,
        policy=policy,
        triggers=triggers,
        sites=None if sites == "auto" else sites,
        growth=options,
    )
