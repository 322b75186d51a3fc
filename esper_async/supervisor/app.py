"""The supervisor: one state directory, its services, and the runs it was asked for.

`Supervisor.run` is everything between start and exit code; it installs no signal handlers and ends
no process, so that a test can boot it in its own event loop. `run_in_foreground` does both.
"""

import asyncio
import gc
import os
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import structlog

from esper_async.leyline.keys import load_signer
from esper_async.leyline.limits import LIMITS
from esper_async.nissa.access import ENVIRONMENT as TOKEN_VARIABLE
from esper_async.nissa.access import load_token
from esper_async.runtime.cell import Cell
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.disk import DiskLimits
from esper_async.runtime.loop_lag import LoopLag
from esper_async.runtime.metrics import Registry
from esper_async.runtime.process_end import Deadline
from esper_async.runtime.restart import RestartPolicy
from esper_async.supervisor.assembly import Services, assemble
from esper_async.supervisor.declared import SERVICES, Declaration
from esper_async.supervisor.disk_keeper import DiskKeeper
from esper_async.supervisor.errors import StartError, StateDirError, SupervisorError
from esper_async.supervisor.http import is_loopback
from esper_async.supervisor.notify import Notifier
from esper_async.supervisor.settings import ServiceSettings, Settings, SupervisorSettings
from esper_async.supervisor.state_dir import (
    FORMAT_VERSION,
    announced,
    held,
    prepare,
    upgrade,
)
from esper_async.supervisor.tree import ServiceLimits, StopReport, Tree
from esper_async.tolaria.run_file import RunFile
from esper_async.tolaria.runs import Run

log = structlog.get_logger(__name__)
_MB = 1 << 20
_DISK_EVERY_S = 10.0
END_MARGIN_S = 1.0
"""Beyond the shutdown's deadline: for saying how it went, before the process is ended as it is."""
EXIT_DONE = 0
EXIT_LOST = 1
EXIT_ESSENTIAL = 3
EXIT_INTERRUPTED = 130


class Supervisor:
    """One supervisor. Make it in the event loop that will run it; `run` may be called once.

    Args:
        settings: every setting.
        runs: runs to submit once Tolaria is ready.
        default_run: submitted too, unless there is something to go on with.
        exit_when_done: stop once every run has ended.
        clock: time of cells, breakers and back-offs.
        source: randomness of back-offs.

    Attributes:
        on_stuck: told, in a thread of its own, why the event loop will not come back.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        runs: Sequence[RunFile] = (),
        default_run: RunFile | None = None,
        exit_when_done: bool = False,
        clock: Clock | None = None,
        source: random.Random | None = None,
    ) -> None:
        self.settings = settings
        self.registry = Registry()
        self.state_dir = Path()
        self.submitted: list[Run] = []
        self.failed: tuple[Run, ...] = ()
        self.overdue: tuple[str, ...] = ()
        self._runs = tuple(runs)
        self._default_run = default_run
        self._exit_when_done = exit_when_done
        self._clock: Clock = clock or SystemClock()
        self._random = source or random.Random()  # noqa: S311 - jitter, not a secret
        self._tree: Tree | None = None
        self._services: Services | None = None
        self._disk: DiskKeeper | None = None
        self._asked_for: list[Run] = []
        self._assembled = asyncio.Event()
        self._stop_requested = False
        self._notifier = Notifier.from_environment()
        self.on_stuck: Callable[[str], None] | None = None
        self._lag_metric = self.registry.histogram(
            "supervisor.loop.lag_ms", "How late the event loop answered."
        )
        self._tasks_metric = self.registry.gauge(
            "supervisor.loop.tasks", "Tasks of the event loop."
        )
        self._restart_metric = self.registry.counter(
            "supervisor.service.transitions", "Changes of a service's state.", ("service", "state")
        )

    @property
    def tree(self) -> Tree:
        """The services' tree; raises RuntimeError before `run` has assembled it."""
        if self._tree is None:
            raise RuntimeError("the supervisor has not assembled its services yet")
        return self._tree

    @property
    def services(self) -> Services:
        """The services; raises RuntimeError before `run` has assembled them."""
        if self._services is None:
            raise RuntimeError("the supervisor has not assembled its services yet")
        return self._services

    @property
    def disk(self) -> DiskKeeper:
        """Who looks after the disk; raises RuntimeError before `run` has assembled it."""
        if self._disk is None:
            raise RuntimeError("the supervisor has not assembled its services yet")
        return self._disk

    def stop(self) -> None:
        """Ask for a drain; a second call cuts it short."""
        self._stop_requested = True
        self._notifier.stopping()
        if self._tree is not None:
            self._tree.stop()

    async def wait_listening(self) -> None:
        """Wait until the probes answer."""
        await self._assembled.wait()
        await self.tree.cells["http"].wait_ready()

    async def wait_started(self) -> None:
        """Wait until every service has been ready."""
        await self._assembled.wait()
        for cell in self.tree.cells.values():
            await cell.wait_ready()

    async def run(self) -> int:
        """Run until stopped; return the exit code.

        Raises SupervisorError (see its `exit_code`) when it could not start or an essential
        service failed for good. Services that would not stop are in `overdue` afterwards, and runs
        that were asked for and failed in `failed`.
        """
        deadline_s = self.settings.supervisor.shutdown_deadline_s
        with ExitStack() as stack:
            self.state_dir = prepare(self.settings.supervisor.state_dir)
            stack.enter_context(held(self.state_dir))
            had = upgrade(self.state_dir)
            if had != FORMAT_VERSION:
                log.warning("state_dir_upgraded", before=had, now=FORMAT_VERSION)
            self._assemble()
            lag = self._watch_loop()
            stack.callback(lag.stop)
            try:
                report = await self._run_tree(deadline_s)
            except BaseExceptionGroup as group:
                raise _first_leaf(group) from None
        return self._conclude(report)

    async def _run_tree(self, deadline_s: float) -> StopReport:
        async with asyncio.TaskGroup() as group:
            beside = [
                group.create_task(self._announce()),
                group.create_task(self._look_after_runs()),
                group.create_task(self.disk.run()),
            ]
            try:
                return await self.tree.run(deadline_s)
            finally:
                for task in beside:
                    task.cancel()

    def _assemble(self) -> None:
        check_exposure(self.settings, self.state_dir)
        check_limits()
        try:
            signer = load_signer(self.state_dir / "leyline.key")
            token = load_token(self.state_dir, os.environ.get(TOKEN_VARIABLE))
        except (OSError, ValueError) as error:
            raise StateDirError(str(error)) from None
        options = self.settings.supervisor
        self._disk = DiskKeeper(
            self.state_dir,
            DiskLimits(
                low_bytes=options.disk_low_mb * _MB,
                full_bytes=options.disk_full_mb * _MB,
                quota_bytes=options.disk_quota_mb * _MB,
            ),
            log_limit_bytes=options.log_limit_mb * _MB,
            every_s=_DISK_EVERY_S,
            clock=self._clock,
            registry=self.registry,
        )
        disk = self._disk
        self._services = assemble(
            self.settings,
            self.state_dir,
            signer=signer,
            token=token,
            system=self._system,
            disk=lambda: disk.level,
            registry=self.registry,
            clock=self._clock,
            source=self._random,
        )
        self._tree = Tree(
            self._services.all(),
            SERVICES,
            clock=self._clock,
            source=self._random,
            limits={each.name: limits_of(options, each) for each in SERVICES},
            restarts=RestartPolicy(
                limit=options.tree_restart_limit, window_s=options.restart_window_s
            ),
            on_change=self._on_change,
        )
        self._services.http.observe(self._tree)
        if self._stop_requested:
            self._tree.stop()
        self._assembled.set()

    def _watch_loop(self) -> LoopLag:
        def stalled(seconds: float, stack: str) -> None:
            log.warning("event_loop_stalled", seconds=round(seconds, 3), stack=stack)

        loop = asyncio.get_running_loop()

        def measured(seconds: float) -> None:
            self._lag_metric.observe(seconds * 1000)
            self._tasks_metric.set(len(asyncio.all_tasks(loop)))
            self._notifier.alive()

        def stuck(seconds: float, stack: str) -> None:
            log.critical("event_loop_stuck", seconds=round(seconds, 1), stack=stack)
            if self.on_stuck is not None:
                self.on_stuck(
                    f"the event loop has not turned for {seconds:.0f} s "
                    f"(supervisor.stall_limit_s), stuck at:\n{stack}"
                )

        options = self.settings.supervisor
        lag = LoopLag(
            stall_s=options.stall_s,
            on_lag=measured,
            on_stall=stalled,
            stuck_s=options.stall_limit_s or float("inf"),
            on_stuck=stuck,
        )
        lag.start(loop)
        return lag

    async def _announce(self) -> None:
        """Keep supervisor.json while listening; tell systemd when everything is up."""
        await self.wait_listening()
        http = self.services.http
        facts = {
            "pid": os.getpid(),
            "host": http.host,
            "port": http.port,
            "started_at": self._clock.time(),
        }
        with announced(self.state_dir, facts):
            await self.wait_started()
            self._notifier.ready()
            await asyncio.Event().wait()

    async def _look_after_runs(self) -> None:
        """Submit what was asked for once all has started; stop when it is done, if so asked."""
        await self.wait_started()
        tolaria = self.services.tolaria
        unfinished = [run for run in tolaria.runs() if not run.ended]
        chosen = list(self._runs)
        if not chosen and not unfinished and self._default_run is not None:
            chosen.append(self._default_run)
        self._asked_for = [tolaria.submit(run) for run in chosen]
        self.submitted = [*unfinished, *self._asked_for]
        if not self._exit_when_done:
            return
        for run in self.submitted:
            await tolaria.wait_ended(run.id)
        self.stop()

    def _system(self) -> dict[str, Any]:
        return {"status": self.tree.status, "services": self.tree.snapshot()}

    def _on_change(self, cell: Cell) -> None:
        self._restart_metric.add(service=cell.name, state=cell.state)

    def _conclude(self, report: StopReport) -> int:
        self.overdue = report.overdue
        for name in report.overdue:
            log.error("did_not_stop", service=name)
        for error in report.errors:
            log.error("failed_while_stopping", error=error)
        waited_for = self.submitted if self._exit_when_done else self._asked_for
        self.failed = tuple(run for run in waited_for if run.state == "failed")
        return EXIT_DONE if report.clean and not self.failed else EXIT_LOST


def limits_of(options: SupervisorSettings, declared: Declaration) -> ServiceLimits:
    """Return a service's limits: its own settings, else what is declared, else those of all."""
    own: ServiceSettings = getattr(options.services, declared.name)
    merged = options.model_dump() | {
        name: seconds
        for name in ("start_timeout_s", "stop_timeout_s")
        if (seconds := getattr(declared, name)) is not None
    }
    merged |= own.model_dump(exclude_none=True)
    return ServiceLimits(
        RestartPolicy(limit=merged["restart_limit"], window_s=merged["restart_window_s"]),
        start_timeout_s=merged["start_timeout_s"],
        stop_timeout_s=merged["stop_timeout_s"],
    )


def _first_leaf(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def check_exposure(settings: Settings, state_dir: Path) -> None:
    """Refuse to listen beyond this machine unless someone has chosen a token."""
    host = settings.http.host
    if is_loopback(host) or os.environ.get(TOKEN_VARIABLE) or (state_dir / "token").exists():
        return
    raise StateDirError(
        f"http.host = {host!r} listens beyond this machine, and there is no token yet: set "
        f"{TOKEN_VARIABLE}, or start once on 127.0.0.1, which makes {state_dir / 'token'}"
    )


def check_limits() -> None:
    """Refuse to start on limits that contradict each other: parts would obey different ones."""
    try:
        LIMITS.check()
    except ValueError as error:
        raise StartError("leyline", error) from None


def _end_at_once(why: str) -> None:
    """End a process whose event loop is stuck; its children end with it, and resume at the next."""
    print(f"esper-supervisor: {why}", file=sys.stderr, flush=True)  # noqa: T201 - the last words
    os._exit(EXIT_LOST)


def _tell_failure(companion: asyncio.Future[None]) -> None:
    """Log why what ran beside the supervisor ended by itself: the supervisor goes on without it."""
    error = None if companion.cancelled() else companion.exception()
    if error is not None:
        log.error("view_failed", exc_info=error)


def unstopped(services: Sequence[str], hurried: bool) -> str:
    """Say which services were left running at the end, and what it costs to have hurried them."""
    names = ", ".join(services)
    if not hurried:
        return f"did not stop in time: {names}"
    return (
        f"cut short by a second signal while it stopped: {names}; "
        "what a run did since its last checkpoint is done again at the next start"
    )


def _deadline_of(supervisor: Supervisor) -> Deadline:
    """Return what ends this process when it has not stopped in time; not started yet."""
    seconds = supervisor.settings.supervisor.shutdown_deadline_s
    why = f"not stopped within {seconds:g} s (supervisor.shutdown_deadline_s): ended as it was"
    return Deadline(seconds + END_MARGIN_S, lambda: _end_at_once(why))


def run_in_foreground(
    make: Callable[[], Supervisor],
    beside: Callable[[Supervisor], Awaitable[None]] | None = None,
) -> int:
    """Run a supervisor on the main thread until it ends or a signal drains it.

    `make` is called in the event loop; `beside(supervisor)` runs next to it and is cancelled at
    its end. Returns the exit code; prints why on stderr when that is not 0. Does not return, but
    ends the process, when a service could not be made to stop, or when the shutdown's deadline has
    passed since the first signal: a loop that is blocked then would not say so itself.
    """
    interrupts: list[float] = []
    deadlines: list[Deadline] = []

    async def main() -> tuple[int, tuple[str, ...], list[str]]:
        supervisor = make()
        supervisor.on_stuck = _end_at_once
        gc.freeze()  # a full collection of all that was imported would hold the loop up for 0.1 s
        loop = asyncio.get_running_loop()

        deadline = _deadline_of(supervisor)
        deadlines.append(deadline)

        def on_signal() -> None:
            interrupts.append(time.monotonic())
            deadline.start()
            supervisor.stop()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, on_signal)
        companion = asyncio.ensure_future(beside(supervisor)) if beside is not None else None
        if companion is not None:
            companion.add_done_callback(_tell_failure)
        try:
            code = await supervisor.run()
            reasons = [f"{run.id} failed: {run.error}" for run in supervisor.failed]
            return code, supervisor.overdue, reasons
        except SupervisorError as error:
            return error.exit_code, supervisor.overdue, [str(error)]
        finally:
            if companion is not None:
                companion.cancel()
                await asyncio.gather(companion, return_exceptions=True)

    with asyncio.Runner() as runner:
        code, overdue, reasons = runner.run(main())
        hurried = len(interrupts) > 1
        if overdue:
            code = EXIT_INTERRUPTED if hurried else code
            reasons.insert(0, unstopped(overdue, hurried))
        sys.stdout.flush()
        for reason in reasons:  # after whatever the companion said: the reason is the last line
            print(f"esper-supervisor: {reason}", file=sys.stderr, flush=True)  # noqa: T201
        if overdue:
            os._exit(code)
    for deadline in deadlines:
        deadline.cancel()
    return code
