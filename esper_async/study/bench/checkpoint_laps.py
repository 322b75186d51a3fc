"""Steps of a real run, sorted by whether a checkpoint was being written beside them.

The engine's own training loader is the stop-watch, as in `engine_laps`: between two batches it
hands out, the engine's whole step runs. Each epoch begins with the write of the checkpoint that the
boundary before it took; once that is done the rest of the epoch is quiet.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

from esper_async.study.bench.interleave import Lap, Rounds, Stopwatch
from esper_async.study.bench.timed_hosts import Batch, TimedHost
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.task import Task

LEAST_STEPS = 3
"""Of each sort, or an epoch tells nothing."""


class CheckpointLaps:
    """A training loader that times the steps of the engine which it feeds.

    Attributes:
        rounds: median steps of an epoch's quiet end, of the next epoch's write, of its quiet end.
        steps_beside: how many steps were taken beside each write.
        written: the records of the checkpoints.
    """

    def __init__(self, host: TimedHost, *, epochs: int) -> None:
        torch.manual_seed(0)
        self.rounds = Rounds()
        self.steps_beside: list[int] = []
        self.written: list[dict[str, Any]] = []
        self._host = host
        self._epochs = epochs
        self._batches = host.lap(torch.Generator().manual_seed(1))
        self._quiet_before: list[Lap] = []
        self._is_writing: Callable[[], bool] = lambda: False

    def run(self, look_at: Callable[[Engine], None]) -> None:
        """Train to the end; then `look_at` the engine while it is open."""
        task = Task(
            model=self._host.model(),
            train_loader=self,
            validation_loader=self._batches[:1],
            loss=self._host.loss,
            optimizer=partial(torch.optim.Adam, lr=1e-4),
        )
        options = RunOptions(epochs=self._epochs, policy="static", threads=1)
        with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
            engine = Engine(task, options, folder=Path(folder), listener=self._listen)
            store = engine._recovery._store
            assert store is not None
            self._is_writing = lambda: store.is_writing
            with closing(engine):
                engine.run()
                look_at(engine)

    def _listen(self, record: Mapping[str, Any]) -> None:
        if record["kind"] == "checkpoint":
            self.written.append(dict(record))

    def __iter__(self) -> Iterator[Batch]:
        beside: list[Lap] = []
        quiet: list[Lap] = []
        for number, batch in enumerate(self._batches):
            watch, before = Stopwatch(), self._is_writing()
            with watch.lap():
                yield batch
            after = self._is_writing()
            if before and after and number > 0:  # the first finds the caches cold
                beside += watch.laps
            elif not before and not after and number > 0:
                quiet += watch.laps
        enough = min(len(beside), len(quiet), len(self._quiet_before)) >= LEAST_STEPS
        if enough:
            self.rounds.add(*map(_median, (self._quiet_before, beside, quiet)))
        if self._quiet_before:
            self.steps_beside.append(len(beside))
        self._quiet_before = quiet


def _median(laps: list[Lap]) -> Lap:
    return Lap(median(lap.cpu_s for lap in laps), median(lap.wall_s for lap in laps))
