"""The child's side of a child process: its entry point, and the link to its parent.

Run as `python -P -m esper_async.runtime.child_main LINK_FD FLAG_FD PARENT_PID NAME`; what to call
and with which arguments comes over the link, so nothing of it shows in a process listing. It needs
only the standard library: what the target imports is the target's affair.
"""

import contextlib
import ctypes
import faulthandler
import importlib
import json
import mmap
import os
import signal
import socket
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

from esper_async.runtime.errors import LinkBroken
from esper_async.runtime.import_path import append_working_directory
from esper_async.runtime.process_end import QuickEnd

HEARTBEAT_INTERVAL_S = 0.1
QUEUE_LIMIT = 1_024
SEND_PATIENCE_S = 5.0
EXIT_ERROR = 1
EXIT_ORPHANED = 71
EXIT_TERMINATED = 143
_PR_SET_PDEATHSIG = 1


class Request(str):
    """A request from the parent: its name, with further fields in `fields`."""

    fields: Mapping[str, Any]

    def __new__(cls, name: str, fields: Mapping[str, Any] | None = None) -> "Request":
        """Return the name as a string that also carries `fields`."""
        request = super().__new__(cls, name)
        request.fields = dict(fields or {})
        return request


class ChildLink:
    """A child's link to its parent. Every method may be called from any thread.

    Two daemon threads move the bytes, so that neither a slow parent nor a full socket can hold up
    the caller. End-of-file from the parent means that it is gone, and ends this process group.
    """

    def __init__(self, link: socket.socket, flag: mmap.mmap) -> None:
        self._socket = link
        self._flag = flag
        self._wake = threading.Condition()
        self._outgoing: deque[dict[str, Any]] = deque()
        self._beat: dict[str, Any] | None = None
        self._next_beat = 0.0
        self._writing = False
        self._broken = False
        self._requests: deque[Request] = deque()
        self._stop = threading.Event()
        self._writer = threading.Thread(target=self._write, name="link-writer", daemon=True)
        self._reader = threading.Thread(target=self._read, name="link-reader", daemon=True)

    def open(self) -> dict[str, Any]:
        """Read the parent's first line (what to run) and start both threads."""
        line, rest = self._first_line()
        self._rest = rest
        self._writer.start()
        self._reader.start()
        first = json.loads(line)
        if not isinstance(first, dict):
            raise LinkBroken(f"the parent's first message is {type(first).__name__}, not an object")
        return first

    @property
    def stop_requested(self) -> bool:
        """Whether the parent (or SIGTERM) has asked this child to finish and leave."""
        return self._stop.is_set()

    @property
    def frozen(self) -> bool:
        """Whether the emergency freeze is on: one byte of shared memory, cheap enough per batch."""
        return self._flag[0] != 0

    def request_stop(self) -> None:
        """Ask this child to stop, as the parent would."""
        self._stop.set()

    def wait_for_stop(self, timeout_s: float | None = None) -> bool:
        """Block until a stop is requested or `timeout_s` has passed; return whether it was."""
        return self._stop.wait(timeout_s)

    def requests(self) -> list[Request]:
        """Return and forget the requests that have arrived since the last call; never blocks."""
        drained: list[Request] = []
        while self._requests:
            drained.append(self._requests.popleft())
        return drained

    def heartbeat(self, step: int, **progress: Any) -> None:
        """Report that step `step` was reached; at most one in 0.1 s is sent, the latest one."""
        now = time.monotonic()
        if now < self._next_beat:
            return
        self._next_beat = now + HEARTBEAT_INTERVAL_S
        with self._wake:
            self._beat = {"type": "heartbeat", "step": step, "progress": progress}
            self._wake.notify_all()

    def send(self, message: dict[str, Any]) -> None:
        """Queue a message for the parent.

        Waits up to 5 s for room when the queue is full; raises LinkBroken past that or when the
        link is gone.
        """
        deadline = time.monotonic() + SEND_PATIENCE_S
        with self._wake:
            while len(self._outgoing) >= QUEUE_LIMIT and not self._broken:
                if not self._wake.wait(deadline - time.monotonic()):
                    raise LinkBroken(f"the parent has read nothing for {SEND_PATIENCE_S:.0f} s")
            if self._broken:
                raise LinkBroken("the link to the parent is closed")
            self._outgoing.append(message)
            self._wake.notify_all()

    def flush(self, deadline_s: float = 2.0) -> bool:
        """Wait until everything queued has been handed to the socket; return whether it was."""
        deadline = time.monotonic() + deadline_s
        with self._wake:
            while (self._outgoing or self._beat or self._writing) and not self._broken:
                if not self._wake.wait(deadline - time.monotonic()):
                    return False
        return not self._broken

    def _first_line(self) -> tuple[bytes, bytes]:
        buffer = b""
        while b"\n" not in buffer:
            chunk = self._socket.recv(65_536)
            if not chunk:
                raise LinkBroken("the parent closed the link before saying what to run")
            buffer += chunk
        line, _, rest = buffer.partition(b"\n")
        return line, rest

    def _write(self) -> None:
        while True:
            with self._wake:
                while not self._outgoing and self._beat is None:
                    self._wake.wait()
                message: dict[str, Any] | None
                if self._outgoing:
                    message = self._outgoing.popleft()
                else:
                    message, self._beat = self._beat, None
                self._writing = True
                self._wake.notify_all()
            try:
                self._socket.sendall(json.dumps(message, default=str).encode() + b"\n")
            except OSError:
                self._broken = True
            with self._wake:
                self._writing = False
                self._wake.notify_all()
            if self._broken:
                return

    def _read(self) -> None:
        buffer = self._rest
        while True:
            *lines, buffer = buffer.split(b"\n")
            for line in lines:
                self._receive(json.loads(line))
            try:
                chunk = self._socket.recv(65_536)
            except OSError:
                chunk = b""
            if not chunk:
                _leave_as_orphan()
            buffer += chunk

    def _receive(self, message: dict[str, Any]) -> None:
        name = str(message["name"])
        if name == "stop":
            self._stop.set()
        self._requests.append(Request(name, message.get("fields")))


def _leave_as_orphan() -> None:
    """End this process and its own children at once: nobody is left to report to."""
    if os.getpgrp() == os.getpid():
        os.killpg(0, signal.SIGKILL)
    os._exit(EXIT_ORPHANED)


def _die_with_parent(parent_pid: int) -> None:
    """Ask Linux for SIGKILL when the parent's spawning thread ends; leave if it already has."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent_pid:
        os._exit(EXIT_ORPHANED)


def _resolve(target: str) -> Callable[..., Any]:
    module_name, _, function_name = target.partition(":")
    function = getattr(importlib.import_module(module_name), function_name)
    if not callable(function):
        raise TypeError(f"the child's target {target!r} is not callable")
    return function  # type: ignore[no-any-return]


def _on_terminate(link: ChildLink) -> Callable[[int, FrameType | None], None]:
    """First SIGTERM asks; one that comes when a stop was already asked for insists."""

    def handler(_number: int, _frame: FrameType | None) -> None:
        if link.stop_requested:
            raise SystemExit(EXIT_TERMINATED)
        link.request_stop()

    return handler


def _run(link: ChildLink, first: dict[str, Any]) -> int:
    """Call the target; return the exit code and tell the parent why if it failed."""
    try:
        result = _resolve(first["target"])(link, **first["args"])
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else EXIT_ERROR
    except Exception as error:  # noqa: BLE001 - it becomes the exit code and the parent's message
        with contextlib.suppress(OSError):  # its log may lie on a full disk
            traceback.print_exc()
        link.send({"type": "failed", "error": f"{type(error).__name__}: {error}"})
        return EXIT_ERROR
    return int(result) if result is not None else 0


def main(arguments: list[str]) -> int:
    """Take over the inherited link and flag, run the target and return the exit code."""
    end = QuickEnd()
    append_working_directory()
    link_fd, flag_fd, parent_pid = (int(argument) for argument in arguments[:3])
    _die_with_parent(parent_pid)
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    flag = mmap.mmap(flag_fd, 1, prot=mmap.PROT_READ)
    os.close(flag_fd)
    os.set_inheritable(link_fd, False)
    link = ChildLink(socket.socket(fileno=link_fd), flag)
    first = link.open()
    os.nice(first["nice"])
    signal.signal(signal.SIGTERM, _on_terminate(link))
    end.code = _run(link, first)
    link.flush()
    return end.code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
