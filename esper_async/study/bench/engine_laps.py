"""The engine and a loop written by hand, lap by lap in one thread, on the same batches.

The engine's own training loader is the stop-watch: between two batches it hands out, it runs the
loop by hand on a copy of the host. So the engine's whole path is timed, journal and checkpoints
included, and both see the same machine at the same time.
"""

import copy
import os
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from esper_async.study.bench.interleave import Lap, Rounds, Stopwatch
from esper_async.study.bench.timed_hosts import RATE, Batch, LoopByHand, TimedHost
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.task import Task

LAPS_AN_EPOCH = 4
RECORD_BYTES = 700
_WARM_ROUNDS = 3


class EngineLaps:
    """A training loader that times the engine which it feeds.

    Attributes:
        rounds: laps of `lap_steps` steps: by hand, by the engine, by hand.
        boundaries: a validation by hand, the engine's boundary, another validation by hand; both
            validations are done right before the boundary.
        syncs: how long the disk took to a journal-sized record, once a boundary.
    """

    def __init__(self, host: TimedHost, *, epochs: int) -> None:
        torch.manual_seed(0)
        self.rounds = Rounds()
        self.boundaries = Rounds()
        self.syncs: list[Lap] = []
        self._host = host
        self._epochs = epochs
        self._model = host.model()
        self._untrained = copy.deepcopy(self._model)
        self._by_hand = LoopByHand(host, self._model, epochs=epochs)
        generator = torch.Generator().manual_seed(1)
        self._batches = host.lap(generator)
        self._validation = [host.batch(4 * host.batch_size, generator) for _ in range(2)]
        self._seen = 0
        self._ended = _now()
        self._validated = self._ended, self._ended
        self._record = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - closed by `run`

    def run(self) -> None:
        """Train to the end; the laps are there then."""
        task = Task(
            model=self._model,
            train_loader=self,
            validation_loader=self._validation,
            loss=self._host.loss,
            optimizer=partial(torch.optim.Adam, lr=RATE),
        )
        options = RunOptions(epochs=self._epochs, policy="static", threads=1)
        with self._record, tempfile.TemporaryDirectory() as folder:
            engine = Engine(task, options, folder=Path(folder))
            try:
                engine.run()
            finally:
                engine.close()

    def differing_weights(self) -> int:
        """Count the host's tensors that are not bitwise those of the same steps by hand."""
        again = LoopByHand(self._host, self._untrained, epochs=self._epochs)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as the engine: sums in another order differ
        for _ in range(self._epochs):
            for _ in range(LAPS_AN_EPOCH):
                again.train([self._batches[0], *self._batches])
            again.end_epoch()
        torch.set_num_threads(threads)
        expected, found = again.model.state_dict(), self._model.state_dict()
        return sum(not torch.equal(expected[name], found[name]) for name in expected)

    def __iter__(self) -> Iterator[Batch]:
        self._note_boundary()
        for _ in range(LAPS_AN_EPOCH):
            yield from self._round()
        self._validate()  # the first after training finds its memory still warm: 8 % quicker
        self._validated = self._validate(), self._validate()
        self._ended = _now()

    def _round(self) -> Iterator[Batch]:
        watch = Stopwatch()
        self._lap_by_hand(watch)
        yield self._batches[0]  # untimed, as in the other laps
        with watch.lap():
            yield from self._batches  # the engine's own step runs between two of them
        self._lap_by_hand(watch)
        self._seen += 1
        if self._seen > _WARM_ROUNDS:
            self.rounds.add(*watch.laps)

    def _lap_by_hand(self, watch: Stopwatch) -> None:
        """Train by hand; a step before that is not timed, since it finds the caches cold."""
        self._by_hand.train(self._batches[:1])
        with watch.lap():
            self._by_hand.train(self._batches)

    def _note_boundary(self) -> None:
        """Time the boundary between the last epoch's end and now, and the disk."""
        now = _now()
        if not self._seen:
            return
        lap = Lap(now.cpu_s - self._ended.cpu_s, now.wall_s - self._ended.wall_s)
        before, after = self._validated
        self.boundaries.add(before, lap, after)
        watch = Stopwatch()
        with watch.lap():
            self._record.write(bytes(RECORD_BYTES))
            os.fsync(self._record.fileno())
        self.syncs += watch.laps

    def _validate(self) -> Lap:
        watch = Stopwatch()
        with watch.lap():
            self._by_hand.validate(self._validation)
        return watch.laps[0]


def _now() -> Lap:
    return Lap(time.thread_time(), time.perf_counter())
