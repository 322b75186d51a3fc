"""`up`: the supervisor in the foreground, with a live view or plain lines beside it."""

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from esper_async.cli.live_view import Snapshot, render
from esper_async.cli.output import Output
from esper_async.cli.run_text import (
    comparison_table,
    doing,
    ending,
    parting_line,
    progress_line,
    refusal_lines,
    result_line,
)
from esper_async.nissa.run_list import list_runs
from esper_async.runtime.logging import configure_logging
from esper_async.supervisor.app import Supervisor, run_in_foreground
from esper_async.supervisor.settings import Settings, SupervisorSettings
from esper_async.tolaria.run_file import RunFile
from esper_async.tolaria.runs import ENDED, Run

LIVE_EVERY_S = 0.5
PLAIN_EVERY_S = 1.0


def up(
    settings: Settings,
    runs: Sequence[RunFile],
    default_run: RunFile | None,
    *,
    exit_when_done: bool,
    output: Output,
) -> int:
    """Run a supervisor until it is stopped; return the exit code."""
    live = output.color and sys.stderr.isatty()
    log_file = None
    if live:
        state_dir = settings.supervisor.state_dir.expanduser()
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        log_file = (state_dir / "supervisor.log").open("a", buffering=1)
    configure_logging(settings.supervisor.log_level, stream=log_file)
    view = _Live(output) if live else _Plain(output)

    def make() -> Supervisor:
        return Supervisor(
            settings, runs=runs, default_run=default_run, exit_when_done=exit_when_done
        )

    try:
        code = run_in_foreground(make, view.follow)
    finally:
        if log_file is not None:
            configure_logging(settings.supervisor.log_level)
            log_file.close()
    if output.as_json:
        output.result({"exit_code": code, "runs": view.told}, ())
    return code


class _View:
    """Follows a supervisor; tells each run's end once, with its table."""

    every_s: float

    def __init__(self, output: Output) -> None:
        self.output = output
        self.told: list[dict[str, Any]] = []
        self._ended: set[str] = set()
        self._refusals: dict[str, int] = {}

    async def follow(self, supervisor: Supervisor) -> None:
        """Show what happens until cancelled."""
        await supervisor.wait_listening()
        before = {run.id for run in supervisor.services.tolaria.store.load() if run.ended}
        self._ended |= before
        try:
            await self.begin(supervisor)
            while True:
                with suppress(OSError):  # what is told goes to a file whose disk is full
                    self.show(supervisor)
                    self.tell_refusals(supervisor)
                    self.tell_endings(supervisor)
                await asyncio.sleep(self.every_s)
        finally:
            self.end()
            self.tell_endings(supervisor)
            self.tell_parting(supervisor)

    async def begin(self, supervisor: Supervisor) -> None:
        """Prepare to show."""

    def show(self, supervisor: Supervisor) -> None:
        """Show how things stand."""

    def end(self) -> None:
        """Leave the terminal as it was."""

    def tell_endings(self, supervisor: Supervisor) -> None:
        """Print the final table of each run that has ended since."""
        for run in supervisor.services.tolaria.runs():
            if run.ended and run.id not in self._ended:
                self._ended.add(run.id)
                self.say(final_lines(run))
                result = run.result or {}
                self.told.append({**run.summary(), "comparison": result.get("comparison") or []})

    def tell_parting(self, supervisor: Supervisor) -> None:
        """Print where the runs that have not ended stand, and what takes them up again."""
        tolaria = supervisor.services.tolaria
        again = go_on_command(supervisor.settings)
        lines = [
            parting_line(run, drained=tolaria.drained(run["id"]), again=again)
            for run in _summaries(supervisor)
            if run["state"] not in ENDED
        ]
        nothing = [] if self.told else ["esper has stopped; no run was under way"]
        self.say(lines or nothing)

    def tell_refusals(self, supervisor: Supervisor) -> None:
        """Print each command that a run refused since it was first seen, with the reason."""
        for picture in supervisor.services.tamiyo.hub.live():
            known = self._refusals.setdefault(picture.id, picture.seq)
            self._refusals[picture.id] = picture.seq
            self.say(refusal_lines(picture.name, picture.notes, after_seq=known))

    def say(self, lines: Sequence[str]) -> None:
        """Print lines above whatever moves."""
        for line in lines:
            self.output.line(line)


class _Plain(_View):
    every_s = PLAIN_EVERY_S

    def __init__(self, output: Output) -> None:
        super().__init__(output)
        self._said: dict[str, tuple[Any, ...]] = {}

    async def begin(self, supervisor: Supervisor) -> None:
        self.output.line(f"esper is at {supervisor.services.http.url}")

    def show(self, supervisor: Supervisor) -> None:
        for summary in _summaries(supervisor):
            run_id = summary["id"]
            if run_id in self._ended:
                continue
            now = (summary["state"], summary["epoch"], doing(summary))
            if self._said.get(run_id) == now:
                continue
            self._said[run_id] = now
            self.output.line(progress_line(summary))


class _Live(_View):
    every_s = LIVE_EVERY_S

    async def begin(self, supervisor: Supervisor) -> None:
        from rich.console import Console
        from rich.live import Live

        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def show(self, supervisor: Supervisor) -> None:
        tree, services = supervisor.tree, supervisor.services
        snapshot = Snapshot(
            url=services.http.url,
            status=tree.status,
            services=tree.snapshot(),
            runs=[run for run in _summaries(supervisor) if run["id"] not in self._ended],
            alerts=[alert.to_json() for alert in services.nissa.context.alerts.active()],
        )
        self._live.update(render(snapshot), refresh=True)

    def end(self) -> None:
        if hasattr(self, "_live"):
            self._live.stop()

    def say(self, lines: Sequence[str]) -> None:
        if not hasattr(self, "_console"):
            super().say(lines)
            return
        for line in lines:
            self._console.print(line, highlight=False, markup=False, soft_wrap=True)


def final_lines(run: Run) -> list[str]:
    """Return how a run ended, and its table where there is one."""
    result = run.result or {}
    told = comparison_table(result.get("comparison") or []) or result_line(result)
    return ["", ending(run.id, run.state, run.error), *told]


def go_on_command(settings: Settings) -> str:
    """Return the command that takes up what is left in the state directory."""
    where = settings.supervisor.state_dir
    named = "" if where == SupervisorSettings().state_dir else f" --state-dir {where}"
    return f"bin/esper-supervisor up{named}"


def _summaries(supervisor: Supervisor) -> list[dict[str, Any]]:
    """Return every run, none before the journals are read: each would seem to stand at epoch 0."""
    services = supervisor.services
    if not supervisor.tree.cells[services.tamiyo.name].ever_ready:
        return []
    return list_runs(services.tamiyo.hub, services.tolaria)
