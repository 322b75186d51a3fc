"""`Esper`: the real supervisor in a test's event loop, with a state directory of its own.

Everything is real: the embedded Redis, the training processes, the listener. Only the clock may
be a fake one. `close` drains it and fails when anything is left behind.
"""

import asyncio
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from esper_async.nissa.run_list import list_runs
from esper_async.runtime.clock import Clock, FakeClock, SystemClock
from esper_async.runtime.processes import processes_naming
from esper_async.supervisor.app import Supervisor
from esper_async.supervisor.assembly import Services
from esper_async.supervisor.settings import load_settings
from esper_async.testing.faults import Faults
from esper_async.testing.leaks import Held

_POLL_S = 0.05
_SETTLE_S = 3.0
_DEFAULTS: Mapping[str, Any] = {
    "http.port": 0,
    "supervisor.shutdown_deadline_s": 30.0,
    "tolaria.stop_s": 18.0,
}
"""A test's drain is not cut short where the machine is busy."""


class LeakError(AssertionError):
    """Something that the supervisor started is still there after it ended."""


@dataclass(frozen=True, slots=True)
class State:
    """What `until` hands to its condition: the readiness and every run, newest first.

    `services` is the body of `/readyz`; a run has the fields of `GET /api/runs`.
    """

    status: str
    ready: bool
    services: Mapping[str, Mapping[str, Any]]
    runs: tuple[Mapping[str, Any], ...]

    def run(self, run_id: str) -> Mapping[str, Any]:
        """Return one run; raises KeyError."""
        for run in self.runs:
            if run["id"] == run_id:
                return run
        raise KeyError(run_id)


class Esper:
    """One supervisor under test. `start` and `close` from coroutines of one event loop.

    Args:
        state_dir: made if it is missing; a second `Esper` on it goes on where this one ended.
        settings: dotted settings laid over the defaults; the port is any free one.
        fake_clock: breakers, windows, back-offs and housekeeping stand still until `advance`.
            Children keep real time.
        library: a directory of Urza's, copied into the state directory before the start, so that
            kernels which were proved before are not proved again.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        settings: Mapping[str, Any] | None = None,
        fake_clock: bool = False,
        library: Path | None = None,
    ) -> None:
        self.state_dir = state_dir.absolute()
        self.clock: Clock = FakeClock() if fake_clock else SystemClock()
        overrides = {**_DEFAULTS, **(settings or {}), "supervisor.state_dir": self.state_dir}
        self.supervisor = Supervisor(
            load_settings(None, overrides, {}),
            clock=self.clock,
            source=random.Random(0),  # noqa: S311 - jitter that repeats
        )
        self.faults = Faults(self)
        self.exit_code: int | None = None
        self._library = library
        self._before: Held | None = None
        self._task: asyncio.Task[int] | None = None
        self._http: aiohttp.ClientSession | None = None

    @property
    def services(self) -> Services:
        """The supervisor's services, for what no interface shows."""
        return self.supervisor.services

    @property
    def url(self) -> str:
        """Where it listens, with a slash at the end."""
        return self.services.http.url

    @property
    def token(self) -> str:
        """What changes over HTTP need."""
        return (self.state_dir / "token").read_text().strip()

    @property
    def http(self) -> aiohttp.ClientSession:
        """An HTTP client of it that carries the token: `async with esper.http.get("/readyz")`."""
        if self._http is None:
            self._http = aiohttp.ClientSession(
                self.url, headers={"Authorization": f"Bearer {self.token}"}
            )
        return self._http

    async def start(self, timeout_s: float = 60.0) -> None:
        """Boot it and wait until everything is ready.

        Raises what the supervisor raised when it could not start, TimeoutError past `timeout_s`.
        """
        self._before = Held.now()
        if self._library is not None and not (self.state_dir / "urza").exists():
            shutil.copytree(self._library, self.state_dir / "urza")
        self._task = asyncio.create_task(self.supervisor.run(), name="supervisor")
        started = asyncio.ensure_future(self.supervisor.wait_started())
        try:
            await asyncio.wait(
                {self._task, started}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            started.cancel()
        if self._task.done():
            self._task.result()
        if not started.done() or started.cancelled():
            await self.close()
            raise TimeoutError(f"the supervisor was not ready within {timeout_s:g} s")

    async def submit(self, run: Mapping[str, Any]) -> str:
        """Submit a run file's content over HTTP; return the run's id.

        Raises AssertionError with the answer when it is refused.
        """
        async with self.http.post("/api/runs", json=run) as answer:
            document = await answer.json(content_type=None)
            assert answer.status == 201, document
        return str(document["id"])

    async def get(self, path: str) -> Any:
        """Return the JSON document at `path`; raises aiohttp.ClientResponseError."""
        async with self.http.get(path) as answer:
            answer.raise_for_status()
            return await answer.json(content_type=None)

    def state(self) -> State:
        """Return how things stand."""
        tree = self.supervisor.tree
        runs = list_runs(self.services.tamiyo.hub, self.services.tolaria)
        return State(tree.status, tree.ready, tree.snapshot(), tuple(runs))

    async def until(self, condition: Callable[[State], object], timeout_s: float = 60.0) -> State:
        """Wait, in real time, until `condition(state)` holds; return that state.

        Raises AssertionError with the last state past `timeout_s`, or when the supervisor ended.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            state = self.state()
            if condition(state):
                return state
            if self._task is None or self._task.done():
                raise AssertionError(f"the supervisor ended before that; {_told(state)}")
            if loop.time() > deadline:
                raise AssertionError(f"not within {timeout_s:g} s; {_told(state)}")
            await asyncio.sleep(_POLL_S)

    async def ended(self, run_id: str, timeout_s: float = 240.0) -> Mapping[str, Any]:
        """Wait until a run has ended and its last record is shown; return the run."""
        states = ("completed", "failed", "stopped")
        state = await self.until(lambda s: s.run(run_id)["state"] in states, timeout_s)
        return state.run(run_id)

    async def advance(self, seconds: float) -> None:
        """Move the fake clock and let what was waiting for it go on; raises without a fake one."""
        if not isinstance(self.clock, FakeClock):
            raise TypeError(
                "only a fake clock can be advanced: @pytest.mark.esper(fake_clock=True)"
            )
        self.clock.advance(seconds)
        for _ in range(10):
            await asyncio.sleep(0)

    async def close(self) -> int:
        """Drain, and check that nothing is left; return the supervisor's exit code.

        Raises LeakError naming what is left, or what the supervisor raised. May be called again.
        """
        if self._before is None or self.exit_code is not None:
            return self.exit_code or 0
        await self.faults.undo()
        if self._http is not None:
            await self._http.close()
        assert self._task is not None
        self.supervisor.stop()
        self.exit_code = -1
        self.exit_code = await self._task
        self._task = None
        await self._check(self._before)
        return self.exit_code

    async def _check(self, before: Held) -> None:
        """Give closing transports and ending processes a moment, then insist."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + _SETTLE_S
        while True:
            left = Held.now().since(before)
            left += [f"process {pid}" for pid in processes_naming(self.state_dir)]
            if not left:
                return
            if loop.time() > deadline:
                raise LeakError("left behind: " + "; ".join(left))
            await asyncio.sleep(_POLL_S)


def _told(state: State) -> str:
    runs = ", ".join(
        f"{run['id']} {run['state']} epoch {run['epoch']} {run['error'] or ''}".strip()
        for run in state.runs
    )
    return f"status {state.status}, runs: {runs or 'none'}"
