"""How a child ended, in words a person can act on."""

import errno
import re
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Cause = Literal[
    "done", "stopped", "error", "out_of_memory", "disk", "cuda", "hung", "signal", "not_started"
]

_CGROUP_EVENTS = Path("/sys/fs/cgroup/memory.events")
_MEMORY = re.compile(r"MemoryError|out of memory|can't allocate memory|Cannot allocate memory")
_CUDA = re.compile(r"(CUDA error|CUDA out of memory|cuDNN error|device-side assert)[^\n]*")
_NO_ROOM = re.compile(
    rf"\[Errno ({errno.EFBIG}|{errno.ENOSPC}|{errno.EDQUOT})\]"
    "|database or disk is full|disk I/O error"
)
_TAIL_BYTES = 16_384


@dataclass(frozen=True, slots=True)
class ChildExit:
    """A child's end: exit `code` or the `signal` that ended it, its `cause` and a `reason`."""

    code: int | None
    signal: int | None
    reason: str
    cause: Cause

    @property
    def ok(self) -> bool:
        """Whether it ended by itself or on request, with exit code 0."""
        return self.code == 0


def oom_kills() -> int | None:
    """Return how many processes of this control group the kernel has killed for memory."""
    try:
        text = _CGROUP_EVENTS.read_text()
    except OSError:
        return None
    counts = dict(line.split() for line in text.splitlines() if len(line.split()) == 2)
    return int(counts["oom_kill"]) if "oom_kill" in counts else None


def log_tail(path: Path | None, offset: int) -> str:
    """Return the last 16 KiB a child wrote to its log since `offset` bytes."""
    if path is None or not path.exists():
        return ""
    with path.open("rb") as stream:
        end = stream.seek(0, 2)
        begun_anew = end < offset  # it was rotated meanwhile
        stream.seek(max(0 if begun_anew else offset, end - _TAIL_BYTES))
        return stream.read().decode(errors="replace")


def explain_exit(
    name: str,
    return_code: int,
    *,
    asked_to_stop: bool,
    killed_because: str | None,
    error: str | None,
    tail: str,
    oom_killed: bool,
) -> ChildExit:
    """Turn what is known about a child's end into a `ChildExit`.

    `return_code` as `subprocess` has it (negative: the signal); `error` is what the child itself
    reported; `killed_because` is set when the watchdog killed it; `tail` is the end of its log.
    """
    number = -return_code if return_code < 0 else None
    code = return_code if return_code >= 0 else None
    if killed_because is not None:
        return ChildExit(code, number, f"{name} was killed: {killed_because}", "hung")
    evidence = f"{error or ''}\n{tail}"
    cuda = _CUDA.search(evidence)
    if number is not None:
        return _explain_signal(name, number, asked_to_stop, oom_killed, cuda)
    if code == 0:
        return ChildExit(0, None, f"{name} finished", "stopped" if asked_to_stop else "done")
    if cuda is not None:
        return ChildExit(code, None, f"{name} failed: {cuda.group()}", "cuda")
    if _MEMORY.search(evidence):
        return ChildExit(
            code, None, f"{name} ran out of memory: {_last_line(evidence)}", "out_of_memory"
        )
    if asked_to_stop and code == 143:
        return ChildExit(code, None, f"{name} was interrupted while stopping", "stopped")
    told = error or _last_line(tail) or "it said nothing"
    if _NO_ROOM.search(told):
        return ChildExit(code, None, f"{name} could not write to the disk: {told}", "disk")
    return ChildExit(code, None, f"{name} failed with exit code {code}: {told}", "error")


def _explain_signal(
    name: str, number: int, asked: bool, oom_killed: bool, cuda: re.Match[str] | None
) -> ChildExit:
    title = signal.Signals(number).name
    if oom_killed and number == signal.SIGKILL:
        return ChildExit(
            None,
            number,
            f"{name} was killed by the kernel: out of memory "
            "(give it a smaller batch or the machine more memory)",
            "out_of_memory",
        )
    if asked:
        return ChildExit(
            None, number, f"{name} did not stop in time and was ended by {title}", "stopped"
        )
    if cuda is not None:
        return ChildExit(None, number, f"{name} was ended by {title}: {cuda.group()}", "cuda")
    by = " (by somebody else, or by the kernel for want of memory)"
    reason = f"{name} was ended by {title}{by if number == signal.SIGKILL else ''}"
    return ChildExit(None, number, reason, "signal")


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""
