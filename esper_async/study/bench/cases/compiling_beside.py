"""What does a run notice of the forge that compiles on the other core?

A convolutional net trains on one thread. Beside it a worker compiles one kernel after the other, at
the priority that the forge gives it, and is stopped and let go on in turns: a lap without it, one
with it, one without. Wall-clock: what the run waits for is what counts.
"""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from esper_async.kasmina.compiling.cxx import NO_COMPILER, cxx_compiler
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    shown,
)
from esper_async.study.bench.interleave import interleaved
from esper_async.study.bench.timed_hosts import CONV, LoopByHand
from esper_async.tezzeret.settings import ForgeSettings

STEP = "a step of the run while the forge compiles"
MOST = 1.15
_ROUNDS = {Effort.SHORT: 5, Effort.FULL: 60}
_LAPS = {Effort.SHORT: 3, Effort.FULL: 8}
_BURNS = "import sys\nprint(flush=True)\nwhile True: pass"
Command = list[str]


def measure(effort: Effort) -> list[Row]:
    """Train with and without the worker beside."""
    if cxx_compiler() is None:
        return [shown("not measured", 0.0, "", note=NO_COMPILER)]
    if (os.cpu_count() or 1) < 2:
        return [shown("not measured", 0.0, "", note="there is no other core")]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with tempfile.TemporaryDirectory(prefix="esper-bench-") as folder:
            return [_row(Path(folder), effort)]
    finally:
        torch.set_num_threads(threads)


def _row(folder: Path, effort: Effort) -> Row:
    torch.manual_seed(0)
    loop = LoopByHand(CONV, CONV.model(), epochs=1)
    batches = CONV.lap(torch.Generator().manual_seed(1)) * _LAPS[effort]
    with _working(_beside(folder)) as (halt, go_on):

        def beside() -> None:
            go_on()
            try:
                loop.train(batches)
            finally:
                halt()

        halt()
        found = interleaved(lambda: loop.train(batches), beside, rounds=_ROUNDS[effort])
    compared = found.compare("wall_s")
    return judged(
        STEP,
        1e3 * compared.value_s / len(batches),
        "ms",
        Bar("at most", MOST),
        baseline=1e3 * compared.baseline_s / len(batches),
        ratio=compared.ratio.value,
        interval=(compared.ratio.low, compared.ratio.high),
        note=f"{os.cpu_count()} cores",
        doubt=compared.doubt(MOST),
    )


def _beside(folder: Path) -> list[Command]:
    """Return the commands of what works beside the run."""
    child = [sys.executable, "-m", "esper_async.study.bench.compiling_child"]
    return [[*child, str(folder), str(ForgeSettings().nice)]]


def _crowd(_folder: Path) -> list[Command]:
    return [[sys.executable, "-c", _BURNS]] * (2 * (os.cpu_count() or 1) + 1)


@contextmanager
def _working(
    commands: list[Command],
) -> Iterator[tuple[Callable[[], None], Callable[[], None]]]:
    """Start processes; yield what halts them, and what lets them go on."""
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, process_group=0) for command in commands
    ]

    def tell(number: signal.Signals) -> None:
        for process in processes:
            os.killpg(process.pid, number)

    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        yield lambda: tell(signal.SIGSTOP), lambda: tell(signal.SIGCONT)
    finally:
        tell(signal.SIGKILL)
        for process in processes:
            process.communicate()


BENCHMARK = Benchmark(
    name="compiling-beside",
    question="what does a run notice of the forge that compiles on the other core?",
    measure=measure,
    mutants=(
        Mutant(
            "a crowd at the run's own priority",
            "more processes than cores work beside the run, and none gives way",
            lambda: replaced(f"{__name__}._beside", _crowd),
            fails=(STEP,),
        ),
    ),
)
