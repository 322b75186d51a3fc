"""A run in which everything is on, and the loop by hand, which take turns in one thread.

The engine's own training loader is the stop-watch. In the middle of each epoch it ends the engine's
turn, has the loop by hand train from the middle of one epoch to the middle of the next, on the same
batches, and begins the engine's next turn: so each turn has one whole epoch, its validation and the
end of it, and each kind comes right after the other.

Nothing that the engine's threads do escapes: a turn ends when the checkpoint is on disk and the bus
has taken what was published, and what those threads compute beside the loop by hand is counted as
the engine's.
"""

import gc
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from esper_async.kasmina.call import default_forward
from esper_async.kasmina.legal import CertificateStore
from esper_async.kasmina.sites import find_sites
from esper_async.leyline import Signer
from esper_async.oona.bridge import Bridge
from esper_async.study.bench.bus_load import KEY
from esper_async.study.bench.interleave import Lap, Rounds
from esper_async.study.bench.timed_hosts import RATE, Batch, LoopByHand, TimedHost
from esper_async.tamiyo.policies.heuristic import HeuristicPolicy
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.process import Teller
from esper_async.tolaria.task import Task

SITES = 16
WARM_TURNS = 2
_NEVER = 10**9
_BLUEPRINTS = ["BP002", "BP003", "BP009", "BP013", "BP014", "BP015", "BP020", "BP023"]
_GIVE_UP_S = 10.0
_LOOK_S = 0.0005


class EverythingLaps:
    """A training loader that times the engine which it feeds, with everything on.

    Args:
        host: what is trained.
        steps: of an epoch.
        turns: of the engine's that are timed.
        certificates: where what was proved before need not be proved again.

    Attributes:
        rounds: an epoch by hand, one by the engine, one by hand; CPU time of all threads.
        own: the same, with the CPU time of the training thread alone.
    """

    def __init__(
        self, host: TimedHost, *, steps: int, turns: int, certificates: CertificateStore
    ) -> None:
        torch.manual_seed(0)
        self.rounds, self.own = Rounds(), Rounds()
        self._epochs = 1 + WARM_TURNS + turns
        self._host = host
        self._certificates = certificates
        self._model = host.model()
        self._by_hand = LoopByHand(host, self._model, epochs=self._epochs)
        generator = torch.Generator().manual_seed(1)
        self._batches = [host.batch(host.batch_size, generator) for _ in range(steps)]
        self._half = steps // 2
        self._validation = [host.batch(4 * host.batch_size, generator) for _ in range(2)]
        self._turns_by_hand: list[_Clocks] = []
        self._turns: list[_Clocks] = []
        self._begun: _Clocks | None = None

    def run(self, url: str) -> None:
        """Train to the end, telling the bus at `url`; the laps are there then.

        Raises:
            RuntimeError: it was not what is to be timed: a seed was planted, or too few sites.
        """
        task = Task(
            model=self._model,
            train_loader=self,
            validation_loader=self._validation,
            loss=self._host.loss,
            optimizer=partial(torch.optim.Adam, lr=RATE),
        )
        options = RunOptions(
            epochs=self._epochs, policy=HeuristicPolicy.name, threads=1, sites=self._sites()
        )
        with tempfile.TemporaryDirectory(prefix="esper-bench-") as place:
            folder = Path(place)
            self._bridge = Bridge(url, folder / "spool", Signer(KEY), "tolaria/run")
            self._bridge.start()
            self._engine = Engine(
                task,
                options,
                folder=folder,
                listener=Teller(self._bridge, "run", loss_unit="nats").tell,
                certificates=self._certificates,
                blueprints=_BLUEPRINTS,
                policy=HeuristicPolicy(seed=0, start_boundary=_NEVER),
            )
            gc.freeze()  # as the training process does
            try:
                self._engine.run()
            finally:
                gc.unfreeze()
                self._engine.close()
                report = self._bridge.close(_GIVE_UP_S)
        executor = self._engine.grower.executor
        if executor is None or executor.planted or len(executor.sites) != SITES or report.error:
            raise RuntimeError(f"{SITES} sites and no seed were to be timed; {report.error}")
        self._end_by_hand()
        self._sort_laps()

    def differing(self) -> int:
        """Count the host's tensors and outputs that are not bitwise those of the loop by hand."""
        mine, theirs = self._by_hand.model.state_dict(), self._model.state_dict()
        same_outputs = torch.equal(self._outputs(self._by_hand.model), self._outputs(self._model))
        return sum(not torch.equal(mine[name], theirs[name]) for name in mine) + (not same_outputs)

    def __iter__(self) -> Iterator[Batch]:
        yield from self._batches[: self._half]
        if self._begun is None:
            self._by_hand.train(self._batches[: self._half])
        else:
            self._drain()
            self._turns.append(_Clocks.now() - self._begun)
        self._take_turn_by_hand()
        self._begun = _Clocks.now()
        yield from self._batches[self._half :]

    def _take_turn_by_hand(self) -> None:
        begun = _Clocks.now()
        self._end_by_hand()
        self._by_hand.train(self._batches[: self._half])
        self._turns_by_hand.append(_Clocks.now() - begun)

    def _end_by_hand(self) -> None:
        """Do the second half of an epoch, and what comes after it."""
        self._by_hand.train(self._batches[self._half :])
        self._by_hand.validate(self._validation)
        self._by_hand.end_epoch()

    def _drain(self) -> None:
        """Wait until the engine's threads have done what the epoch left them."""
        self._engine._recovery.wait()
        give_up = time.perf_counter() + _GIVE_UP_S
        while len(self._bridge._outbox) or len(self._bridge._spool):
            if time.perf_counter() > give_up:
                raise RuntimeError(f"the bus has not taken everything within {_GIVE_UP_S:g} s")
            time.sleep(_LOOK_S)

    def _sort_laps(self) -> None:
        """Make rounds; what other threads did beside a turn by hand is the engine's."""
        timed = slice(WARM_TURNS, None)
        before, after = self._turns_by_hand[timed], self._turns_by_hand[WARM_TURNS + 1 :]
        for first, turn, last in zip(before, self._turns[timed], after, strict=False):
            all_cpu_s = turn.process_s + last.process_s - last.thread_s
            self.rounds.add(first.lap(), Lap(all_cpu_s, turn.wall_s), last.lap())
            self.own.add(first.lap(), turn.lap(), last.lap())

    def _sites(self) -> dict[str, str]:
        """Return sixteen sites; where the host has fewer, several have one and the same place."""
        found = find_sites(self._by_hand.model, default_forward, self._batches[0])
        return {f"site{number}": found[number % len(found)].path for number in range(SITES)}

    def _outputs(self, model: nn.Module) -> Tensor:
        """Return what a trained model answers."""
        model.eval()
        with torch.no_grad():
            answers: Tensor = model(self._batches[0][0])
        return answers


class _Clocks(NamedTuple):
    """CPU time of this thread and of the process, and wall-clock, in seconds."""

    thread_s: float
    process_s: float
    wall_s: float

    @classmethod
    def now(cls) -> "_Clocks":
        """Read them."""
        return cls(time.thread_time(), time.process_time(), time.perf_counter())

    def __sub__(self, earlier: "_Clocks") -> "_Clocks":
        return _Clocks(*(mine - before for mine, before in zip(self, earlier, strict=True)))

    def lap(self) -> Lap:
        """Return a lap of this thread."""
        return Lap(self.thread_s, self.wall_s)
