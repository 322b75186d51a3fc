"""A training process that notes each of its optimizer steps, for the benchmark of the freeze.

It is the product's own; a mutant that the environment names is broken first.
"""

import mmap
import os
import struct
import time
from collections.abc import Iterator, Sequence, Sized
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from esper_async.runtime.child_main import ChildLink
from esper_async.study.bench.benchmark import replaced
from esper_async.tolaria import process
from esper_async.tolaria.control import Steer
from esper_async.tolaria.process import LinkControl
from esper_async.tolaria.task import Task

MUTANT = "ESPER_BENCH_FREEZE"
AT_BOUNDARIES, DRAWS = "at-boundaries", "draws"
_ROW = struct.Struct("<qdd")
DISTINCT = 8


class Stamps:
    """How many steps there were, when the last one ended, and the longest that one took.

    In a file that both processes have mapped; times are `time.monotonic()`, in seconds, which is
    the same clock in every process of a machine.
    """

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(bytes(_ROW.size))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _ROW.size)

    def read(self) -> tuple[int, float, float]:
        """Return the number of steps, the end of the last one and the longest duration."""
        count, last, longest = _ROW.unpack(self._map[:])
        return count, last, longest

    def note(self, *, most_s: float) -> None:
        """Note that a step has just ended; one that took over `most_s` seconds was held up."""
        count, last, longest = self.read()
        now = time.monotonic()
        gap = now - last
        self._map[:] = _ROW.pack(count + 1, now, max(longest, gap) if gap < most_s else longest)

    def close(self) -> None:
        """Unmap the file."""
        self._map.close()


class Repeated(Sized):
    """The same few batches over and over, so many of them an epoch."""

    def __init__(self, count: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self._count = count
        self.drawn = [
            (
                torch.randn(16, 8, generator=generator),
                torch.randint(0, 3, (16,), generator=generator),
            )
            for _ in range(DISTINCT)
        ]

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index in range(self._count):
            yield self.drawn[index % DISTINCT]


def make_task(quick: int, slow: int, slow_s: float, stamps: str = "") -> Task:
    """Return a task of `quick` batches an epoch and then `slow` ones, of `slow_s` seconds each."""
    loader = Repeated(quick + slow)
    noted = Stamps(Path(stamps)) if stamps else None
    steps = [0]

    def loss(output: Tensor, target: Tensor, reduction: str = "mean") -> Tensor:
        if torch.is_grad_enabled() and steps[0] % (quick + slow) >= quick:
            time.sleep(slow_s)
        return F.cross_entropy(output, target, reduction=reduction)

    def stepped(_optimizer: Optimizer, _arguments: Any, _keywords: Any) -> None:
        steps[0] += 1
        if noted is not None:
            noted.note(most_s=2.0 * slow_s)

    def optimizer(parameters: Any) -> Optimizer:
        made = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9)
        made.register_step_post_hook(stepped)
        return made

    return Task(
        model=nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Dropout(0.1), nn.Linear(32, 3)),
        train_loader=loader,
        validation_loader=loader.drawn,
        loss=loss,
        optimizer=optimizer,
    )


def train(link: ChildLink, **arguments: Any) -> int:
    """Train as the product does, with what the environment names broken."""
    mutant = os.environ.get(MUTANT, "")
    with ExitStack() as stack:
        if mutant == AT_BOUNDARIES:
            stack.enter_context(replaced(f"{process.__name__}.LinkControl", _DeafControl))
        elif mutant == DRAWS:
            stack.enter_context(replaced(f"{__name__}.LinkControl.wait", _waits_and_draws))
        return process.train(link, **arguments)


class _DeafControl(LinkControl):
    """Looks at the flag, and at what else it is asked, only once the run has passed a boundary."""

    _boundary: Any = 0
    _heard: Any = 0

    def poll(self) -> Sequence[Steer]:
        """Return the requests, at the first batch of an epoch; else nothing."""
        if self._boundary == self._heard:
            return ()
        self._heard = self._boundary
        return super().poll()

    def heartbeat(self, step: int, **progress: Any) -> None:
        """Note the boundary."""
        self._boundary = progress.get("boundary", self._boundary)
        super().heartbeat(step, **progress)


def _waits_and_draws(control: LinkControl, timeout_s: float) -> None:
    torch.rand(1)
    control._link.wait_for_stop(timeout_s)
