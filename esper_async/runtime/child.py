"""The supervisor's side of a child process; the only module that spawns one.

A child is started from the main thread (the kernel's parent-death signal fires when the *thread*
ends), in its own process group, with one end of a socket pair. Newline-delimited JSON goes both
ways: heartbeats and messages up, requests down; end-of-file means death. A byte of shared memory
carries the emergency freeze. There are no tasks here: everything is driven by the event loop's
callbacks, so a `Child` cannot outlive the loop that started it without being seen.
"""

import asyncio
import contextlib
import json
import math
import mmap
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import structlog

from esper_async.runtime.child_exit import ChildExit, explain_exit, log_tail, oom_kills
from esper_async.runtime.child_watchdog import Watchdog
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.errors import ChildStartError
from esper_async.runtime.group_guard import GroupGuard

log = structlog.get_logger(__name__)
Message = dict[str, Any]
_MAX_LINE_BYTES = 4 * 2**20
_WITHHELD = ("ESPER_API_TOKEN", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
"""Variables of the supervisor's own: a child runs other people's code, and is no service."""
_GRACE_SHARE = 0.7
_LAST_WORDS_S = 1.0


@dataclass(frozen=True, slots=True)
class ChildSpec:
    """What to run in a child and how to watch it.

    `target` is "package.module:function", called as `function(link, **args)`; `args` must be
    JSON-able. `heartbeat_timeout_s` (None: not watched) is how long the step count may stand still
    before the child is taken for hung; `start_timeout_s` is the patience for the first heartbeat,
    imports included. `environment` is laid over the parent's; `log_path` takes stdout and stderr
    (default: the parent's stderr).
    """

    name: str
    target: str
    args: Mapping[str, Any] = field(default_factory=dict)
    nice: int = 10
    heartbeat_timeout_s: float | None = None
    start_timeout_s: float = 120.0
    environment: Mapping[str, str] = field(default_factory=dict)
    log_path: Path | None = None


class _LinkProtocol(asyncio.Protocol):
    """Split the child's bytes into lines and hand each one on.

    A child runs other people's code: what is no message of ours ends the link, and so the child.
    """

    def __init__(self, receive: Callable[[Message], None], closed: Callable[[], None]) -> None:
        self._receive = receive
        self._closed = closed
        self._buffer = b""
        self.transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        *lines, self._buffer = (self._buffer + data).split(b"\n")
        try:
            if len(self._buffer) > _MAX_LINE_BYTES:
                raise ValueError(f"a line has more than {_MAX_LINE_BYTES} bytes")
            for line in lines:
                self._receive(_message_in(line))
        except (ValueError, RecursionError) as error:
            log.error("child_talks_nonsense", reason=str(error))
            self._buffer = b""
            if self.transport is not None:
                self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._closed()


def _message_in(line: bytes) -> Message:
    """Return the message in a line; raises ValueError when it is none."""
    message = json.loads(line)
    if not isinstance(message, dict):
        raise ValueError(f"a message is an object, not {type(message).__name__}")
    if message.get("type") == "heartbeat" and not (
        isinstance(message.get("step"), int) and _is_progress(message.get("progress"))
    ):
        raise ValueError("a heartbeat has a step and its progress")
    return message


def _is_progress(told: object) -> bool:
    """Whether it is what a child may tell of its progress: names with words or finite numbers."""
    return isinstance(told, dict) and all(
        value is None or isinstance(value, str | int) or _is_finite(value)
        for value in told.values()
    )


def _is_finite(value: object) -> bool:
    return isinstance(value, float) and math.isfinite(value)


class Child:
    """One child process, from `start` to `wait`.

    Lives in one event loop, on the main thread. `on_message(message)` is called in that loop for
    everything the child sends except heartbeats. Not restartable: make a new one.
    """

    def __init__(
        self,
        spec: ChildSpec,
        *,
        on_message: Callable[[Message], None] | None = None,
        clock: Clock | None = None,
    ) -> None:
        self.spec = spec
        self._on_message = on_message
        self._clock: Clock = clock or SystemClock()
        self._process: subprocess.Popen[bytes] | None = None
        self._protocol = _LinkProtocol(self._receive, self._link_closed)
        self._exit: asyncio.Future[ChildExit] | None = None
        self._watchdog: Watchdog | None = None
        self._flag: mmap.mmap | None = None
        self._pidfd: int | None = None
        self._guard: GroupGuard | None = None
        self._asked_to_stop = False
        self._dead = False
        self._error: str | None = None
        self._oom_before: int | None = None
        self._log_offset = 0
        self.last_heartbeat: float | None = None
        self.step: int | None = None
        self.progress: dict[str, Any] = {}

    @property
    def pid(self) -> int | None:
        """The process id, once started."""
        return self._process.pid if self._process is not None else None

    @property
    def running(self) -> bool:
        """Whether the process has been started and has not ended."""
        return self._exit is not None and not self._exit.done()

    @property
    def exit(self) -> ChildExit | None:
        """How it ended, once it has."""
        if self._exit is None or not self._exit.done():
            return None
        return self._exit.result()

    async def start(self) -> None:
        """Spawn the process and tell it what to run; does not wait for its imports.

        Raises ChildStartError when not on the main thread, when already started, or when the
        operating system refuses.
        """
        if threading.current_thread() is not threading.main_thread():
            raise ChildStartError(
                f"{self.spec.name}: children are spawned from the main thread only, since the "
                "kernel ends a child when the thread that spawned it ends"
            )
        if self._exit is not None:
            raise ChildStartError(f"{self.spec.name} has already been started; make a new Child")
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        try:
            self._oom_before = oom_kills()
            self._spawn(theirs)
        except OSError as error:
            ours.close()
            raise ChildStartError(f"{self.spec.name} could not be started: {error}") from error
        finally:
            theirs.close()
        self._exit = loop.create_future()
        self._watch_process(loop)
        ours.setblocking(False)
        await loop.create_connection(lambda: self._protocol, sock=ours)
        self._send(
            {"target": self.spec.target, "args": dict(self.spec.args), "nice": self.spec.nice}
        )
        if self.spec.heartbeat_timeout_s is not None:
            self._watchdog = Watchdog(
                self, self.spec.heartbeat_timeout_s, self.spec.start_timeout_s, self._clock
            )
            self._watchdog.arm(loop)

    async def wait(self) -> ChildExit:
        """Wait for the process to end; may be called by many and again. Cancelling it is safe."""
        if self._exit is None:
            raise ChildStartError(f"{self.spec.name} has not been started")
        return await asyncio.shield(self._exit)

    def request(self, name: str, **fields: Any) -> bool:
        """Send a request down the link; return False when the child is gone."""
        if name == "stop":
            self._asked_to_stop = True
        return self._send({"name": name, "fields": fields})

    def freeze(self, on: bool) -> None:
        """Set or clear the emergency freeze that the child reads once per batch."""
        if self._flag is not None:
            self._flag[0] = 1 if on else 0

    def kill(self) -> None:
        """End the whole process group with SIGKILL, now."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int, *, group: bool = True) -> None:
        """Send a signal to the process group (or the process alone) if it still runs."""
        if self._process is None or not self.running:
            return
        with contextlib.suppress(ProcessLookupError):
            if group:
                os.killpg(self._process.pid, number)
            else:
                os.kill(self._process.pid, number)

    async def stop(self, deadline_s: float) -> ChildExit:
        """Ask, then SIGTERM, then SIGKILL, all within `deadline_s` seconds; return how it ended.

        When cancelled meanwhile the child is killed, so it never outlives an impatient caller.
        """
        self.request("stop")
        try:
            for number, share in ((signal.SIGTERM, _GRACE_SHARE), (signal.SIGKILL, 1.0)):
                wait_s = deadline_s * (share if number == signal.SIGTERM else 1 - _GRACE_SHARE)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(wait_s):
                        return await self.wait()
                self.signal(number, group=number == signal.SIGKILL)
            return await self.wait()
        except asyncio.CancelledError:
            self.kill()
            raise

    def _spawn(self, theirs: socket.socket) -> None:
        flag_fd = _shared_byte()
        output = self._open_log()
        try:
            self._flag = mmap.mmap(flag_fd, 1)
            theirs.set_inheritable(True)
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-P",  # a file of the current directory is no module of ours
                    "-m",
                    "esper_async.runtime.child_main",
                    str(theirs.fileno()),
                    str(flag_fd),
                    str(os.getpid()),
                    self.spec.name,
                ],
                stdin=subprocess.DEVNULL,
                stdout=output or 2,
                stderr=output or 2,
                pass_fds=(theirs.fileno(), flag_fd),
                env={**_inheritable(), **self.spec.environment},
                process_group=0,
            )
            self._guard = self._guarded(self._process)
        finally:
            os.close(flag_fd)
            if output is not None:
                output.close()

    def _guarded(self, process: subprocess.Popen[bytes]) -> GroupGuard:
        try:
            return GroupGuard(process.pid)
        except OSError:
            process.kill()
            process.wait()
            raise

    def _open_log(self) -> IO[bytes] | None:
        if self.spec.log_path is None:
            return None
        self.spec.log_path.parent.mkdir(parents=True, exist_ok=True)
        stream = self.spec.log_path.open("ab")
        self._log_offset = stream.tell()
        return stream

    def _watch_process(self, loop: asyncio.AbstractEventLoop) -> None:
        """Learn of the process's end by its pidfd, or by a waiting thread where there is none."""
        assert self._process is not None
        process = self._process
        if hasattr(os, "pidfd_open"):
            self._pidfd = os.pidfd_open(process.pid)
            loop.add_reader(self._pidfd, self._ended, loop)
            return

        def wait_in_thread() -> None:
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._ended, loop)

        threading.Thread(target=wait_in_thread, name=f"wait-{self.spec.name}", daemon=True).start()

    def _ended(self, loop: asyncio.AbstractEventLoop) -> None:
        assert self._process is not None
        if self._pidfd is not None:
            loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)  # what the child itself left running
        self._process.wait()
        if self._guard is not None:
            self._guard.dismiss()
        self._dead = True
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            self._conclude()
        else:  # what it sent last may still be in the socket: the verdict waits for its end
            loop.call_later(_LAST_WORDS_S, self._conclude)

    def _link_closed(self) -> None:
        if self._dead:
            self._conclude()

    def _conclude(self) -> None:
        assert self._process is not None
        assert self._exit is not None
        if self._exit.done():
            return
        before, after = self._oom_before, oom_kills()
        why = self._watchdog.verdict if self._watchdog is not None else None
        if self._watchdog is not None:
            self._watchdog.disarm()
        outcome = explain_exit(
            self.spec.name,
            self._process.returncode,
            asked_to_stop=self._asked_to_stop,
            killed_because=why,
            error=self._error,
            tail=log_tail(self.spec.log_path, self._log_offset),
            oom_killed=before is not None and after is not None and after > before,
        )
        if self._protocol.transport is not None:
            self._protocol.transport.close()
        if self._flag is not None:
            self._flag.close()
            self._flag = None
        self._exit.set_result(outcome)

    def _receive(self, message: Message) -> None:
        kind = message.get("type")
        if kind == "heartbeat":
            self.last_heartbeat = self._clock.monotonic()
            self.step = message["step"]
            self.progress = message["progress"]
            return
        if kind == "failed":
            self._error = str(message["error"])
        if self._on_message is not None:
            self._on_message(message)

    def _send(self, message: Message) -> bool:
        transport = self._protocol.transport
        if transport is None or transport.is_closing():
            return False
        transport.write(json.dumps(message).encode() + b"\n")
        return True


def _inheritable() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name not in _WITHHELD}


def _shared_byte() -> int:
    """Return the descriptor of one page of anonymous shared memory, inheritable by name only."""
    if hasattr(os, "memfd_create"):
        descriptor = os.memfd_create("esper-flag")
    else:
        with tempfile.NamedTemporaryFile() as file:
            descriptor = os.dup(file.fileno())
    os.ftruncate(descriptor, 1)
    return descriptor
