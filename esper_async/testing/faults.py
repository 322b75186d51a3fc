"""Faults for a supervisor under test: children, Redis, disks, blobs, messages.

Each happens to the real thing from outside, as an operator's bad day would bring it.
"""

import asyncio
import fcntl
import os
import resource
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from esper_async.leyline import TOPICS
from esper_async.oona.connection import connect_once
from esper_async.oona.streams import WIRE_FIELD, normal_lane
from esper_async.runtime.processes import children, command

if TYPE_CHECKING:
    from esper_async.testing.harness import Esper

_POLL_S = 0.01


class Faults:
    """Injects faults into one supervisor; what is held or frozen is let go at its end."""

    def __init__(self, esper: "Esper") -> None:
        self._esper = esper
        self._frozen: set[int] = set()
        self._full: dict[int, tuple[int, int]] = {}
        self._redis_lock: int | None = None

    # -- children ------------------------------------------------------------------------------

    def child(self, name: str) -> int:
        """Return the process id of the child of that name, such as `train-<run>` or `forge`.

        The beginning of a name will do. Raises LookupError naming the children there are.
        """
        lines = {pid: command(pid) for pid in children()}
        for pid, line in lines.items():
            words = line.split()
            if "esper_async.runtime.child_main" in words and words[-1].startswith(name):
                return pid
        raise LookupError(f"no child {name!r} among {list(lines.values())}")

    def kill(self, name: str) -> int:
        """SIGKILL a child and everything in its process group; return its process id."""
        pid = self.child(name)
        os.killpg(pid, signal.SIGKILL)
        return pid

    def freeze(self, name: str) -> int:
        """SIGSTOP a child: it lives and does nothing; return its process id."""
        pid = self.child(name)
        os.kill(pid, signal.SIGSTOP)
        self._frozen.add(pid)
        return pid

    def thaw(self) -> None:
        """SIGCONT everything that was frozen."""
        for pid in self._frozen:
            if _lives(pid):
                os.kill(pid, signal.SIGCONT)
        self._frozen.clear()

    # -- Redis ---------------------------------------------------------------------------------

    async def kill_redis(self) -> int:
        """SIGKILL the embedded server; Oona starts it again by itself. Return its process id."""
        pid = await self._redis_pid()
        os.kill(pid, signal.SIGKILL)
        await _gone(pid)
        return pid

    async def stop_redis(self) -> None:
        """SIGKILL the embedded server and hold its directory, so that it stays away.

        Oona's patience for a server that will not start is 30 s; call `start_redis` before.
        """
        pid = await self._redis_pid()
        path = self._esper.state_dir / "redis" / "server.lock"
        handle = os.open(path, os.O_RDWR)
        taking = asyncio.create_task(asyncio.to_thread(fcntl.flock, handle, fcntl.LOCK_EX))
        while not taking.done():
            if _lives(pid):
                os.kill(pid, signal.SIGKILL)
            await asyncio.sleep(_POLL_S)
        self._redis_lock = handle

    async def start_redis(self) -> None:
        """Let go of the directory and wait until Oona has the server running again."""
        self._release()
        await self._redis_pid()

    async def freeze_redis(self) -> int:
        """SIGSTOP the embedded server: every message is late until `thaw`."""
        pid = await self._redis_pid()
        os.kill(pid, signal.SIGSTOP)
        self._frozen.add(pid)
        return pid

    async def delay(self, delay_s: float) -> None:
        """Have Redis take no command for `delay_s`: what is published meanwhile arrives late."""
        client = connect_once(self._esper.services.oona.url, timeout_s=5.0)
        try:
            await client.client_pause(int(1000 * delay_s), all=True)
        finally:
            await client.aclose()

    # -- data ----------------------------------------------------------------------------------

    def corrupt_blob(self, name: str | None = None) -> Path:
        """Flip one byte in the middle of a blob of Urza's (default: the first); return its path.

        Raises LookupError when there is no blob.
        """
        folder = self._esper.state_dir / "urza" / "blobs"
        paths = sorted(path for path in folder.glob("*/*") if len(path.name) == 64)
        chosen = [path for path in paths if name is None or path.name == name]
        if not chosen:
            raise LookupError(f"no blob {name or ''} in {folder}")
        content = bytearray(chosen[0].read_bytes())
        content[len(content) // 2] ^= 0xFF
        chosen[0].write_bytes(content)
        return chosen[0]

    def fill_disk(self, name: str | None = None) -> None:
        """Have every write to a file fail in a child, or in the supervisor, until `empty_disk`.

        By the process's limit on file sizes (Linux): the error is EFBIG, where a full disk's is
        ENOSPC.
        """
        pid = os.getpid() if name is None else self.child(name)
        before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        self._full.setdefault(pid, before)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))

    def empty_disk(self) -> None:
        """Let writes succeed again wherever the disk was full."""
        for pid, before in self._full.items():
            if _lives(pid):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, before)
        self._full.clear()

    async def duplicate_next(self, topic: str, timeout_s: float = 60.0) -> bytes:
        """Wait for the next message on a topic and put it there once more; return its wire form.

        What is on the topic already counts as next. Raises KeyError for an unknown topic,
        TimeoutError.
        """
        stream = normal_lane(TOPICS[topic].name)
        client = connect_once(self._esper.services.oona.url, timeout_s=5.0)
        try:
            async with asyncio.timeout(timeout_s):
                while not (entries := await client.xrevrange(stream, count=1)):  # noqa: ASYNC110 - Redis wakes nobody
                    await asyncio.sleep(_POLL_S)
            fields = entries[0][1]
            assert fields is not None
            wire = fields[WIRE_FIELD]
            assert isinstance(wire, bytes)
            await client.xadd(stream, {WIRE_FIELD: wire})
            return wire
        finally:
            await client.aclose()

    # -- the end -------------------------------------------------------------------------------

    async def undo(self) -> None:
        """Thaw what is frozen and let Redis start; the harness calls it before it closes."""
        self.thaw()
        self.empty_disk()
        self._release()

    def _release(self) -> None:
        if self._redis_lock is not None:
            os.close(self._redis_lock)
            self._redis_lock = None

    async def _redis_pid(self) -> int:
        """Wait for the embedded server; raises LookupError when the Redis is somebody else's."""
        server = self._esper.services.oona.server
        if server is None:
            raise LookupError("this supervisor uses an external Redis; stop that one instead")
        async with asyncio.timeout(60.0):
            while (pid := server.pid) is None:  # noqa: ASYNC110 - it tells nobody
                await asyncio.sleep(_POLL_S)
        return pid


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def _gone(pid: int) -> None:
    async with asyncio.timeout(30.0):
        while _lives(pid):  # noqa: ASYNC110 - nobody is told
            await asyncio.sleep(_POLL_S)
