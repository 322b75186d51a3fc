"""A training process on the bus: `python -m esper_async.study.bench.redis_child FOLDER URL LIFE...`

Trains one growing run after the other, each with a bridge and a spool of its own, and prints a
line at every boundary and at every end. What each step cost is left in `FOLDER/LIFE.json`.
"""

import argparse
import json
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from google.protobuf.message import Message

from esper_async.kasmina.legal import MemoryStore
from esper_async.kasmina.options import GrowthOptions
from esper_async.leyline import load_key
from esper_async.oona.bridge import Bridge
from esper_async.oona.courier import Courier
from esper_async.study.bench.benchmark import replaced
from esper_async.study.bench.hosts import ConvHost
from esper_async.tolaria.control import Steer
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.process import Teller
from esper_async.tolaria.task import Task

EPOCHS, STEPS_PER_EPOCH, BATCH_SIZE = 28, 12, 32
BLUEPRINTS = ["BP003", "BP009", "BP014"]
DRAIN_S = 10.0
_GROWTH = GrowthOptions(
    dwell_steps=STEPS_PER_EPOCH,
    shadow_every=1,
    ramp_boundaries=1,
    window_boundaries=1,
    max_windows=1,
    embargo_boundaries=1,
    g2_margin=-1e9,
    max_seeds=2,
    parameter_budget=100.0,
)


class Laps:
    """The run's control: notes when each step ended, by the clock and in CPU time."""

    def __init__(self) -> None:
        self.at: list[tuple[int, float, float]] = []
        self._boundary = 0

    def poll(self) -> Sequence[Steer]:
        """Return nothing: nobody steers."""
        return ()

    def heartbeat(self, step: int, **progress: Any) -> None:
        """Note the end of a step; tell of a boundary passed since the last one."""
        boundary = int(progress["boundary"])
        if boundary != self._boundary:
            self._boundary = boundary
            print(f"boundary {boundary}", flush=True)  # noqa: T201 - what the drill waits for
        self.at.append((boundary, time.perf_counter(), time.thread_time()))

    def wait(self, timeout_s: float) -> None:
        """Not wait: nothing pauses this run."""


def main() -> None:
    """Train every life named on the command line."""
    asked = _parser().parse_args()
    key, certificates = load_key(asked.folder / "leyline.key"), MemoryStore()
    with _mutant(asked.mutant, asked.url):
        for life in asked.lives:
            folder = asked.folder / "runs" / life
            bridge = Bridge(asked.url, folder / "spool", key, f"tolaria/{life}")
            bridge.start()
            laps = _train(life, folder, bridge, certificates)
            report = bridge.close(DRAIN_S)
            document = {"laps": laps.at, "report": asdict(report)}
            (asked.folder / f"{life}.json").write_text(json.dumps(document))
            print(f"ended {life}", flush=True)  # noqa: T201 - what the drill waits for


def _train(life: str, folder: Path, bridge: Bridge, certificates: MemoryStore) -> Laps:
    options = RunOptions(
        epochs=EPOCHS, policy="random", seed=1, threads=1, growth=_GROWTH, checkpoint_every=EPOCHS
    )
    laps = Laps()
    engine = Engine(
        _make_task(),
        options,
        run_id=life,
        folder=folder,
        control=laps,
        listener=Teller(bridge, life).tell,
        certificates=certificates,
        blueprints=BLUEPRINTS,
    )
    with closing(engine):
        engine.run()
    return laps


def _make_task() -> Task:
    """A convolution net on noise: what it learns does not matter here, what it costs does."""
    torch.manual_seed(0)
    batches = [
        (torch.randn(BATCH_SIZE, 1, 8, 8), torch.randint(10, (BATCH_SIZE,)))
        for _ in range(STEPS_PER_EPOCH + 2)
    ]
    return Task(
        model=ConvHost(),
        train_loader=batches[:STEPS_PER_EPOCH],
        validation_loader=batches[STEPS_PER_EPOCH:],
        loss=torch.nn.functional.cross_entropy,
    )


def _mutant(name: str | None, url: str) -> AbstractContextManager[Any]:
    if name is None:
        return nullcontext()
    if name == "looks":
        return _looks_for_redis(url.removeprefix("unix://"))
    return {"hasty": _forgets_at_once, "waits": _waits_for_redis}[name]()


_whole_publish = Courier._publish
_whole_offer = Bridge.offer
_whole_after_step = Grower.after_step
LOOKS_FOR_S = 0.25


@contextmanager
def _forgets_at_once() -> Iterator[None]:
    async def publish(courier: Courier, client: Any, batch: list[Any]) -> None:
        await _whole_publish(courier, client, batch)
        courier._spool.remove([entry.seq for entry in batch if entry.seq in courier._sent])

    with replaced("esper_async.oona.courier.Courier._publish", publish):
        yield


@contextmanager
def _waits_for_redis() -> Iterator[None]:
    def offer(bridge: Bridge, message: Message, **options: Any) -> bool:
        accepted = _whole_offer(bridge, message, **options)
        while len(bridge._outbox) and bridge._thread.is_alive():
            time.sleep(0.001)
        return accepted

    with replaced("esper_async.oona.bridge.Bridge.offer", offer):
        yield


@contextmanager
def _looks_for_redis(address: str) -> Iterator[None]:
    def after_step(grower: Grower, batch: Any) -> None:
        _whole_after_step(grower, batch)
        enough = time.thread_time() + LOOKS_FOR_S
        while not _answers(address) and time.thread_time() < enough:
            pass

    with replaced("esper_async.tolaria.grower.Grower.after_step", after_step):
        yield


def _answers(address: str) -> bool:
    with socket.socket(socket.AF_UNIX) as caller:
        return caller.connect_ex(address) == 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("url")
    parser.add_argument("lives", nargs="+")
    parser.add_argument("--mutant")
    return parser


if __name__ == "__main__":
    main()
