"""Which processes there are, read from /proc; everywhere else there are none to be seen."""

import os
from pathlib import Path

_PROC = Path("/proc")


def children(parent: int | None = None) -> list[int]:
    """Return the processes whose parent is this one (or `parent`), those that ended left out."""
    wanted = os.getpid() if parent is None else parent
    found = []
    for entry in _PROC.glob("[0-9]*/stat"):
        try:
            state, parent_pid = entry.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it ended meanwhile
        if int(parent_pid) == wanted and state != "Z":
            found.append(int(entry.parent.name))
    return sorted(found)


def command(pid: int) -> str:
    """Return a process's command line, empty when it has ended."""
    try:
        return (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    except OSError:
        return ""


def processes_naming(folder: Path) -> list[int]:
    """Return the processes that work in `folder` or name it, this one left out."""
    found = []
    for entry in _PROC.glob("[0-9]*"):
        pid = int(entry.name)
        try:
            inside = (entry / "cwd").readlink().is_relative_to(folder)
        except OSError:
            continue
        if pid != os.getpid() and (inside or str(folder) in command(pid)):
            found.append(pid)
    return found


def named_child(name: str, parent: int | None = None) -> int | None:
    """Return the child process whose name begins so, as `ChildSpec.name` gave it; None if none."""
    for pid in children(parent):
        words = command(pid).split()
        if "esper_async.runtime.child_main" in words and words[-1].startswith(name):
            return pid
    return None


def open_descriptors(pid: int) -> int:
    """Return how many descriptors a process has open. Raises OSError when it is gone."""
    return len(list((_PROC / str(pid) / "fd").iterdir()))


def lives(pid: int) -> bool:
    """Whether a process exists and has not ended."""
    try:
        return (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def queued_s(process: Path) -> float:
    """Return how long a process stood ready to run and waiting for a core, from its /proc folder.

    It is told of the main thread, and of a process that has ended until it is reaped. Raises
    OSError where the process is gone, or the kernel does not tell.
    """
    return int((process / "schedstat").read_text().split()[1]) / 1e9


def queued_in_group(group: int) -> dict[int, float]:
    """Return `queued_s` of each living process of a process group; none where nobody tells."""
    found = {}
    for entry in _PROC.glob("[0-9]*/stat"):
        try:
            of_group = int(entry.read_text().rpartition(")")[2].split()[2])
            if of_group == group:
                found[int(entry.parent.name)] = queued_s(entry.parent)
        except OSError:
            continue  # it ended meanwhile
    return found
