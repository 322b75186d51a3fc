"""Looking for compiled kernels in the background, and keeping those that were loaded."""

import queue
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from esper_async.kasmina.compiling.kernel_program import KernelProgram
from esper_async.kasmina.compiling.kernel_record import Compilation
from esper_async.kasmina.interface import SiteInterface

Settings = tuple[tuple[str, object], ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A kernel to be had compiled: the blueprint at an interface, for batches of one size."""

    blueprint: str
    interface: SiteInterface
    settings: Settings
    batch: int
    threads: int


class Supplier(Protocol):
    """Where compiled kernels come from. Called from one thread, which is not the run's."""

    def record(self, wanted: Wanted) -> Compilation | None:
        """Return what came of compiling it; None while nothing has."""
        ...

    def unpack(self, record: Compilation, folder: Path) -> None:
        """Write a kept kernel's files into a folder. Whatever it raises leaves it eager."""
        ...

    def ask(self, wanted: Wanted) -> bool:
        """Have it compiled, and return whether that was heard; if so it is asked once."""
        ...


BUDGET_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Answer:
    """What was found of a kernel: its program and what fetching it took, or why it stays eager."""

    record: Compilation | None
    program: KernelProgram | None
    reason: str
    fetch_ms: float | None = None

    @property
    def size_bytes(self) -> int:
        """What it takes in memory, as far as that is its own code."""
        return 0 if self.program is None else self.program.size_bytes


class Answers:
    """What was found, by what was wanted; past a budget in bytes the least recently used go.

    A program that goes is freed once no kernel runs by it. Used by two threads.
    """

    def __init__(self, budget_bytes: int) -> None:
        self._budget_bytes = budget_bytes
        self._found: OrderedDict[Wanted, Answer] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, wanted: Wanted) -> Answer | None:
        """Return what was found, if it is here."""
        with self._lock:
            if wanted in self._found:
                self._found.move_to_end(wanted)
            return self._found.get(wanted)

    def put(self, wanted: Wanted, answer: Answer) -> None:
        """Keep what was found, and drop others until the budget holds; the newest stays."""
        with self._lock:
            self._found[wanted] = answer
            while len(self._found) > 1 and self._size_bytes() > self._budget_bytes:
                self._found.popitem(last=False)

    def _size_bytes(self) -> int:
        return sum(answer.size_bytes for answer in self._found.values())


class KernelLoader:
    """The thread that looks for kernels; one that is not there yet is looked for when asked again.

    What cannot be loaded stays eager: it ends no training. Called from the run's thread.

    Args:
        supplier: where kernels come from.
        scratch: a folder in which they are unpacked to be loaded; nothing stays in it.
        budget_bytes: what loaded programs may take together, those in use apart.
    """

    def __init__(self, supplier: Supplier, scratch: Path, budget_bytes: int = BUDGET_BYTES) -> None:
        self._supplier = supplier
        self._scratch = scratch
        self._wishes: queue.SimpleQueue[Wanted | None] = queue.SimpleQueue()
        self._underway: set[Wanted] = set()
        self._asked: set[Wanted] = set()
        self._answers = Answers(budget_bytes)
        self._thread: threading.Thread | None = None

    def answer(self, wanted: Wanted) -> Answer | None:
        """Return what was found, if it is settled."""
        return self._answers.get(wanted)

    def look_for(self, wanted: Wanted) -> None:
        """Look in the background, unless it is being looked for."""
        if wanted in self._underway:
            return
        self._underway.add(wanted)
        if self._thread is None:
            self._thread = threading.Thread(target=self._look, name="kernel-loader", daemon=True)
            self._thread.start()
        self._wishes.put(wanted)

    def close(self) -> None:
        """Stop the thread once it has done what it is at."""
        if self._thread is not None:
            self._wishes.put(None)
            self._thread.join()
            self._thread = None

    def _look(self) -> None:
        while (wanted := self._wishes.get()) is not None:
            try:
                answer = self._found(wanted)
            except Exception as error:  # noqa: BLE001 - whatever it is, the kernel stays eager, and says so
                answer = Answer(None, None, f"not loaded: {type(error).__name__}: {error}")
            if answer is not None:
                self._answers.put(wanted, answer)
            self._underway.discard(wanted)

    def _found(self, wanted: Wanted) -> Answer | None:
        started = time.perf_counter()
        record = self._supplier.record(wanted)
        if record is None:
            if wanted not in self._asked and self._supplier.ask(wanted):
                self._asked.add(wanted)
            return None
        if not record.kept:
            return Answer(record, None, record.reason)
        with tempfile.TemporaryDirectory(dir=self._scratch, prefix="kernel-") as folder:
            self._supplier.unpack(record, Path(folder))
            program = KernelProgram(Path(folder))
            program.warm()
        return Answer(record, program, "", 1e3 * (time.perf_counter() - started))
