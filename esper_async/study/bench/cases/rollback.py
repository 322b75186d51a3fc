"""How fast does a run go back, and is it then what it was? From memory, and from disk.

Speed is taken on a host of ten million parameters with Adam's state, with no checkpoint being
written at that moment; the best of several counts, for what others do on the machine only makes it
slower. Exactness is looked at on a small host with a seed in every stage of its life: all that the
rest of the run depends on is compared with the state it went back to.
"""

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.optim import Optimizer

from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    wants,
)
from esper_async.study.bench.hosts import DenseHost, batches
from esper_async.study.bench.planting import PlantOnce
from esper_async.study.bench.timed_hosts import WIDE
from esper_async.tolaria import checkpoint
from esper_async.tolaria.checkpoint_file import Loaded, read_checkpoint
from esper_async.tolaria.control import Steer
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.recovery import Recovery, WayBack
from esper_async.tolaria.state_copy import Outline
from esper_async.tolaria.task import Task

MOST_MS = {"memory": 50.0, "disk": 2000.0}
STEPS_A_BOUNDARY = 4
_TIMES = {Effort.SHORT: 3, Effort.FULL: 10}
_STAGES = ("TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY", "FOSSILIZED")


def measure(effort: Effort) -> list[Row]:
    """Go back again and again, from memory and from disk."""
    rows = [_timed_row(source, _TIMES[effort]) for source in MOST_MS if wants(_figure(source))]
    return [*rows, *(_exact_row(source) for source in MOST_MS if wants(_exactness(source)))]


def _figure(source: str) -> str:
    return f"from {source}"


def _exactness(source: str) -> str:
    return f"from {source}: what differs from the state that was kept"


# -- how fast --------------------------------------------------------------------------------------


class _Back:
    """Asks for a rollback in the middle of every epoch after the first two, so many times."""

    def __init__(self, times: int) -> None:
        self._left = times
        self._step = 0

    def poll(self) -> Sequence[Steer]:
        """Return the rollback at its step."""
        in_the_middle = self._step % STEPS_A_BOUNDARY == 2
        if not self._left or self._step <= 2 * STEPS_A_BOUNDARY or not in_the_middle:
            return ()
        self._left -= 1
        return (Steer("rollback"),)

    def heartbeat(self, step: int, **progress: Any) -> None:
        """Note the step."""
        self._step = step

    def wait(self, timeout_s: float) -> None:
        """Not wait: nothing pauses this run."""


def _timed_row(source: str, times: int) -> Row:
    drawn = WIDE.lap(torch.Generator().manual_seed(0))[:STEPS_A_BOUNDARY]
    model = WIDE.model()
    task = Task(
        model=model,
        train_loader=drawn,
        validation_loader=drawn[:1],
        loss=WIDE.loss,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-4),
    )
    options = _options(source, epochs=3, policy="static")
    records = _records(task, options, _Back(times))
    taken = [record["ms"] for record in records]
    count = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    return judged(
        _figure(source),
        min(taken) if taken else float("nan"),
        "ms",
        Bar("at most", MOST_MS[source]),
        note=f"best of {len(taken)}, slowest {max(taken, default=float('nan')):.0f} ms; "
        f"{count:.1f} million parameters with Adam's state",
    )


def _options(source: str, **how: Any) -> RunOptions:
    return RunOptions(threads=1, seed=1, in_memory=int(source == "memory"), **how)


def _records(task: Task, options: RunOptions, control: Any) -> list[dict[str, Any]]:
    told: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
        engine = Engine(
            task,
            options,
            folder=Path(folder),
            control=control,
            listener=lambda record: told.append(dict(record)),
        )
        with closing(engine):
            engine.run()
    return [record for record in told if record["kind"] == "rolled_back"]


# -- how exactly -----------------------------------------------------------------------------------


def _exact_row(source: str) -> Row:
    found: dict[str, list[str]] = {}
    for stage in _STAGES:
        found[stage] = _differences(source, stage)
    differing = sorted({name for names in found.values() for name in names})
    met = ", ".join(stage for stage, names in found.items() if names != ["it was never there"])
    return judged(
        _exactness(source),
        float(len(differing)),
        "tensors or values",
        Bar("at most", 0.0),
        note=f"with a seed {met}" + (f"; the first is {differing[0]}" if differing else ""),
    )


class _BackInStage:
    """Asks for one rollback in the middle of the epoch after one that ended with a seed's stage."""

    def __init__(self, stage: str) -> None:
        self.engine: Engine | None = None
        self.done = False
        self._stage = stage
        self._step = 0

    def poll(self) -> Sequence[Steer]:
        """Return the rollback once the seed is in its stage since the last boundary."""
        executor = None if self.engine is None else self.engine.grower.executor
        if self.done or executor is None or self._step % STEPS_A_BOUNDARY != 2:
            return ()
        if not any(seed.stage.name == self._stage for seed in executor.seeds.values()):
            return ()
        self.done = True
        return (Steer("rollback"),)

    def heartbeat(self, step: int, **progress: Any) -> None:
        """Note the step."""
        self._step = step

    def wait(self, timeout_s: float) -> None:
        """Not wait: nothing pauses this run."""


def _differences(source: str, stage: str) -> list[str]:
    torch.manual_seed(0)
    drawn = batches(STEPS_A_BOUNDARY + 1)
    task = Task(
        model=DenseHost(),
        train_loader=drawn[:-1],
        validation_loader=drawn[-1:],
        loss=F.cross_entropy,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    )
    growth = GrowthOptions(
        dwell_steps=8, ramp_boundaries=2, window_boundaries=2, g2_margin=-1e9, g4_margin=-1e9
    )
    control = _BackInStage(stage)
    kept: list[dict[str, Any]] = []
    living: list[dict[str, Any]] = []

    def before(recovery: Recovery, step: int) -> WayBack | None:
        way = _whole_before(recovery, step)
        if way is not None:
            kept.append(_relevant(way.state))
        return way

    def go_back(engine: Engine, *arguments: Any, **how: Any) -> None:
        _whole_go_back(engine, *arguments, **how)
        living.append(_relevant(engine._state()))

    with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder, ExitStack() as stack:
        stack.enter_context(replaced(f"{Recovery.__module__}.Recovery.before", before))
        stack.enter_context(replaced(f"{Engine.__module__}.Engine._go_back", go_back))
        engine = Engine(
            task,
            replace(_options(source, epochs=16, sites={"here": "second"}), growth=growth),
            folder=Path(folder),
            control=control,
            blueprints=["BP002"],
            policy=PlantOnce(Candidate("here", "BP002")),
        )
        control.engine = engine
        stack.enter_context(closing(engine))
        engine.run()
    if not living:
        return ["it was never there"]
    return _unequal(kept[0], living[0])


def _relevant(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of what the rest of a run depends on; how long things took is left out."""
    parts = ("grower", "random", "chronicle", "history", "loss_guard", "steps", "boundary")
    loader = {name: state["loader"][name] for name in ("epoch", "batch", "generators")}
    return Outline({**{part: state[part] for part in parts}, "loader": loader}).copy().state


def _unequal(one: Any, other: Any, path: str = "") -> list[str]:
    """Return the places at which two states differ in their bits."""
    if isinstance(one, Tensor) and isinstance(other, Tensor):
        return [] if one.shape == other.shape and torch.equal(one, other) else [path]
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        return [each for key in one for each in _unequal(one[key], other[key], f"{path}/{key}")]
    if isinstance(one, list | tuple) and isinstance(other, list | tuple) and len(one) == len(other):
        pairs = enumerate(zip(one, other, strict=True))
        return [each for index, pair in pairs for each in _unequal(*pair, f"{path}/{index}")]
    return [] if one == other else [path]


# -- mutants ---------------------------------------------------------------------------------------


def _from_the_disk_alone(source: str, **how: Any) -> RunOptions:
    return RunOptions(threads=1, seed=1, in_memory=0, **how)


@contextmanager
def _read_for(least_ms: float) -> Iterator[None]:
    """Read a checkpoint again and again for a while, however fast the disk is."""

    def read(manifest_path: Path) -> Loaded | None:
        until = time.perf_counter() + least_ms / 1e3
        while time.perf_counter() < until:
            read_checkpoint(manifest_path)
        return read_checkpoint(manifest_path)

    with replaced(f"{checkpoint.__name__}.read_checkpoint", read):
        yield


@contextmanager
def _nothing_in_memory() -> Iterator[None]:
    with (
        replaced(f"{__name__}._options", _from_the_disk_alone),
        _read_for(1.25 * MOST_MS["memory"]),
    ):
        yield


def _keeps_its_moments(optimizer: Optimizer, saved: Mapping[str, Any]) -> None:
    """Load nothing."""


_whole_before, _whole_go_back = Recovery.before, Engine._go_back

BENCHMARK = Benchmark(
    name="rollback",
    question="how fast does a run go back, and is it then what it was?",
    measure=measure,
    mutants=(
        Mutant(
            "nothing in memory",
            "every state is read from the disk, which takes its time",
            _nothing_in_memory,
            fails=("from memory",),
        ),
        Mutant(
            "a checkpoint is read again and again",
            "for longer than the bar allows, to be sure of it",
            lambda: _read_for(1.25 * MOST_MS["disk"]),
            fails=("from disk",),
        ),
        Mutant(
            "moments stay",
            "weights go back, the state of the optimizers does not",
            lambda: replaced("esper_async.kasmina.branch.load_optimizer", _keeps_its_moments),
            fails=("from memory: *", "from disk: *"),
        ),
    ),
)
