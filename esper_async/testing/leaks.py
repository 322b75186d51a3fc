"""What a process holds at one moment, and what of it is still held later: the leak check.

Children and descriptors are read from /proc and are empty where there is none.
"""

import asyncio
import threading
from dataclasses import dataclass
from pathlib import Path

from esper_async.runtime.processes import children, command

_POOLS = ("asyncio_", "AnyIO worker thread", "ThreadPoolExecutor")  # idle workers are no leak


@dataclass(frozen=True, slots=True)
class Held:
    """Tasks, threads, child processes, and open sockets, pipes and files."""

    tasks: frozenset["asyncio.Task[object]"]
    threads: frozenset[threading.Thread]
    children: frozenset[int]
    descriptors: frozenset[tuple[int, str]]

    @classmethod
    def now(cls) -> "Held":
        """Look, from a coroutine, whose own task does not count."""
        return cls(
            frozenset(asyncio.all_tasks() - {asyncio.current_task()}),
            frozenset(threading.enumerate()),
            frozenset(children()),
            frozenset(_descriptors()),
        )

    def since(self, before: "Held") -> list[str]:
        """Describe what is held now and was not before; empty when nothing leaked."""
        threads = (t for t in self.threads - before.threads if not t.name.startswith(_POOLS))
        return [
            *(f"task {task.get_name()}" for task in self.tasks - before.tasks if not task.done()),
            *(f"thread {thread.name}" for thread in threads),
            *(f"process {pid}: {command(pid)}" for pid in self.children - before.children),
            *(f"descriptor {fd}: {what}" for fd, what in self.descriptors - before.descriptors),
        ]


def _descriptors() -> list[tuple[int, str]]:
    """Return open descriptors that somebody opened on purpose: sockets, pipes, files."""
    found = []
    for entry in Path("/proc/self/fd").glob("*"):
        try:
            what = str(entry.readlink())
        except OSError:
            continue
        if not what.startswith(("/proc/", "/dev/", "/sys/")):
            found.append((int(entry.name), what))
    return found
