"""The supervisor under fire: started, looked at, killed and started again, all from outside."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from redis import Redis

from esper_async.cli.client import Client
from esper_async.drills.seams import Seams
from esper_async.runtime.processes import (
    children,
    command,
    named_child,
    processes_naming,
    queued_s,
)

_COMMAND = (sys.executable, "-P", "-m", "esper_async.cli", "up", "--no-run")
_POLL_S, _CLEAR_S = 0.02, 5.0
READY_S, STOP_S = 180.0, 60.0
HEARTBEAT_S = 30.0
JOB_LIMIT_S = 10.0
SETTINGS = {
    "tezzeret.job_limit_s": JOB_LIMIT_S,
    "tolaria.heartbeat_timeout_s": HEARTBEAT_S,
    "tolaria.nice": 0,
    "supervisor.restart_limit": 100,
    "supervisor.tree_restart_limit": 1_000,
}
"""Faults come faster here than limits are made for."""


class StageError(RuntimeError):
    """The drill could not go on as planned; the message says why."""


class Stage:
    """One state directory below `folder`, with the supervisor on it while one is started.

    `mutation` is Python source that every process of it runs first: a deliberately broken variant.
    `settings` are more settings than those of every drill; it listens on `port` (0: any free one).
    `late` collects what came, but later than `slack` times what it may take, and `stops` how long
    each drain took in seconds; `struck_at` is when the last fault struck, which one that has to
    prepare its target sets itself.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mutation: str = "",
        settings: Mapping[str, object] | None = None,
        port: int = 0,
        slack: float = 1.0,
    ) -> None:
        self.folder = folder
        self.state_dir = folder / "state"
        self.seams = Seams(folder / "seams")
        if mutation:
            with (folder / "seams" / "sitecustomize.py").open("a") as source:
                source.write(f"\n{mutation}\n")
        self._settings = {**SETTINGS, **(settings or {})}
        self._port = port
        self._process: subprocess.Popen[bytes] | None = None
        self.slack = slack
        self.late: list[str] = []
        self.stops: list[float] = []
        self.struck_at = 0.0

    @property
    def pid(self) -> int:
        """The supervisor's process id; raises StageError when none was started."""
        if self._process is None:
            raise StageError("the supervisor has not been started")
        return self._process.pid

    def start(self) -> float:
        """Start a supervisor and wait until it is ready; return the seconds that took."""
        given = [f"{key}={value}" for key, value in self._settings.items()]
        arguments = [word for each in given for word in ("--set", each)]
        began = time.monotonic()
        with (self.folder / "said").open("a") as said:
            self._process = subprocess.Popen(
                [
                    *_COMMAND,
                    "--port",
                    str(self._port),
                    "--state-dir",
                    str(self.state_dir),
                    *arguments,
                ],
                stdout=said,
                stderr=said,
                cwd=self.folder,
                env=self.seams.environment(),
            )
        self.until(self.ready, "a supervisor that is ready", READY_S)
        return time.monotonic() - began

    def start_if_stopped(self) -> None:
        """Start a supervisor where there is none: a drill failed between a stop and a start."""
        if self._process is None or self._process.poll() is not None:
            self.start()

    def kill(self) -> None:
        """SIGKILL the supervisor, nothing else."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> int | None:
        """Have it drain; return its exit code, None when it did not end in time."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        try:
            return self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()
            return None

    def until(self, happened: Callable[[], object], what: str, patience_s: float) -> float:
        """Wait for something; return the seconds. Raises StageError with what was said last."""
        began = time.monotonic()
        while not happened():
            ended = self._process is not None and self._process.poll() is not None
            if ended or time.monotonic() - began > patience_s:
                why = "the supervisor ended" if ended else f"{patience_s:g} s passed"
                raise StageError(f"{why} before there was {what}: {self._last_words()}")
            time.sleep(_POLL_S)
        return time.monotonic() - began

    def clear(self) -> None:
        """SIGKILL the supervisor, and whatever is left in the drill's own folder a while later."""
        self.kill()
        deadline = time.monotonic() + _CLEAR_S
        while (left := processes_naming(self.folder)) and time.monotonic() < deadline:
            time.sleep(_POLL_S)
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # -- what is to be seen --------------------------------------------------------------------

    def readiness(self) -> dict[str, Any]:
        """Return the body of /readyz, whatever its status; {} when nobody answers."""
        try:
            facts = json.loads((self.state_dir / "supervisor.json").read_text())
            if facts["pid"] != self.pid:
                return {}
            url = f"http://{facts['host']}:{facts['port']}/readyz"
            try:
                with urllib.request.urlopen(url, timeout=5) as answer:
                    return dict(json.loads(answer.read()))
            except urllib.error.HTTPError as unready:
                with unready:
                    return dict(json.loads(unready.read()))
        except (OSError, ValueError):
            return {}

    def metric(self, name: str) -> float | None:
        """Return a metric without labels as /metrics tells it, None where it does not."""
        url = json.loads((self.state_dir / "supervisor.json").read_text())
        with urllib.request.urlopen(
            f"http://{url['host']}:{url['port']}/metrics", timeout=5
        ) as answer:
            lines = answer.read().decode().splitlines()
        values = [line.rpartition(" ")[2] for line in lines if line.startswith(f"{name} ")]
        return float(values[0]) if values else None

    def service(self, name: str) -> Mapping[str, Any]:
        """Return what readiness says of a service; {} when it says nothing."""
        found: Mapping[str, Any] = self.readiness().get("services", {}).get(name, {})
        return found

    def ready(self) -> bool:
        """Whether every service is ready, and no breaker is open."""
        answer = self.readiness()
        breakers = [b for s in answer.get("services", {}).values() for b in s["breakers"].values()]
        return answer.get("status") == "ready" and "open" not in breakers

    def child(self, name: str) -> int | None:
        """Return the supervisor's child of that name, or None."""
        return named_child(name, self.pid)

    def queued(self) -> dict[int, float]:
        """Return for how many seconds supervisor and training process have waited for a core."""
        waited = {}
        for pid in (self.pid, self.child("train-")):
            with suppress(OSError):
                if pid is not None:
                    waited[pid] = queued_s(Path(f"/proc/{pid}"))
        return waited

    def redis_pid(self) -> int | None:
        """Return the embedded server's process id, or None while it does not run."""
        conf = str(self.state_dir / "redis" / "redis.conf")
        socket = str(self.state_dir / "redis")
        servers = (p for p in children(self.pid) if conf in command(p) or socket in command(p))
        return next(servers, self.service("oona").get("detail", {}).get("pid"))

    def redis(self) -> Redis:
        """Return a client of the embedded server; close it."""
        return Redis(unix_socket_path=str(self.redis_socket))

    @property
    def redis_socket(self) -> Path:
        """Where the embedded server listens."""
        return self.state_dir / "redis" / "redis.sock"

    def run_folder(self, run_id: str) -> Path:
        """Return the folder of a run."""
        return self.state_dir / "runs" / run_id

    def left_behind(self) -> list[str]:
        """Return the command lines of processes that still work here."""
        return [command(pid) for pid in processes_naming(self.folder) if pid != os.getpid()]

    # -- runs ----------------------------------------------------------------------------------

    def submit(self, run: Mapping[str, Any]) -> str:
        """Submit a run; return its id."""
        return str(Client.of(self.state_dir).post("/api/runs", run)["id"])

    def stop_runs(self) -> None:
        """Have every run that goes on stopped."""
        client = Client.of(self.state_dir)
        for run in client.get("/api/runs"):
            if run["state"] in ("queued", "running", "paused"):
                client.post(f"/api/runs/{run['id']}/stop")

    def state_of(self, run_id: str) -> Mapping[str, Any]:
        """Return what the run's own file says: state, resumes and so on; {} before there is one."""
        try:
            return dict(json.loads((self.run_folder(run_id) / "state.json").read_text()))
        except (OSError, ValueError):
            return {}

    def ended(self, run_id: str) -> bool:
        """Whether a run has come to an end, good or bad."""
        return self.state_of(run_id).get("state") in ("completed", "failed", "stopped")

    def journal_bytes(self, run_id: str) -> int:
        """Return the size of a run's journal: it grows while the run trains."""
        try:
            return (self.run_folder(run_id) / "journal.jsonl").stat().st_size
        except OSError:
            return 0

    def _last_words(self) -> str:
        return (self.folder / "said").read_text(errors="replace")[-2_000:]
