"""The supervisor side of the forge: requests in, answers out, and what it shows of itself."""

import functools
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from esper_async.leyline import TOPICS, EventEnvelope, KernelRequest
from esper_async.runtime.breaker import CircuitBreaker
from esper_async.runtime.child import ChildSpec
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.metrics import Registry
from esper_async.tezzeret import messages
from esper_async.tezzeret.answers import Answers
from esper_async.tezzeret.fingerprint import forge_fingerprint, installed_torch
from esper_async.tezzeret.forge import Forge
from esper_async.tezzeret.metrics import ForgeMetrics
from esper_async.tezzeret.settings import ForgeSettings

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from esper_async.oona import Bus

_LOG_BYTES = 1 << 20


class TezzeretService:
    """The forge. It proves what Urza lacks for the interfaces that were asked about.

    The worker runs at the lowest priority, only while there is work. `worker_target` is what the
    child runs, `environment` is laid over its environment; `fingerprint` says, when the service
    starts, which code its results hold for.
    """

    name = "tezzeret"
    needs: tuple[str, ...] = ("oona", "urza")
    essential = False

    def __init__(
        self,
        state_dir: Path,
        bus: "Bus",
        *,
        settings: ForgeSettings | None = None,
        registry: Registry | None = None,
        clock: Clock | None = None,
        worker_target: str = "esper_async.tezzeret.worker:work",
        environment: Mapping[str, str] | None = None,
        fingerprint: Callable[[], str] = forge_fingerprint,
    ) -> None:
        self._state_dir = state_dir
        self._bus = bus
        self._settings = settings or ForgeSettings()
        self._metrics = ForgeMetrics(registry or Registry())
        self._clock: Clock = clock or SystemClock()
        self._worker_target = worker_target
        self._environment = dict(environment or {})
        self._fingerprint = fingerprint
        self._disk = CircuitBreaker(
            "tezzeret.queue",
            clock=self._clock,
            is_failure=lambda error: isinstance(error, OSError | sqlite3.Error),
        )
        self._starting = CircuitBreaker("tezzeret.worker", clock=self._clock)
        self._forge: Forge | None = None

    async def run(self, ready: Callable[[], None]) -> None:
        """Take up the queue where it was left, and work through it until cancelled."""
        answers = Answers(self._bus, clock=self._clock, retry_s=self._settings.retry_s)
        forge = await to_thread.run_sync(self._make_forge, answers.wake)
        self._forge = forge
        consume = functools.partial(
            self._bus.consume,
            TOPICS["kernel_requests"].name,
            "tezzeret",
            functools.partial(self._on_message, forge, answers),
            consumer="tezzeret",
        )
        try:
            await forge.fill_gaps()
            async with anyio.create_task_group() as group:
                group.start_soon(consume)
                group.start_soon(forge.work)
                group.start_soon(answers.tell, forge)
                group.start_soon(forge.watch_library)
                ready()
        finally:
            with anyio.CancelScope(shield=True):
                self._forge = None
                await forge.close()

    def detail(self) -> dict[str, object]:
        """What the forge is at, for readiness."""
        forge = self._forge
        if forge is None:
            return {"doing": "not running"}
        doing = forge.working_on or "idle"
        if not forge.counts:
            doing = "idle: nobody has asked for a kernel yet"
        return {
            "doing": doing,
            "jobs": dict(forge.counts),
            "interfaces": forge.interfaces,
            "worker_pid": forge.bench.pid,
            "workers_started": forge.bench.started,
        }

    def breakers(self) -> dict[str, str]:
        """The state of each breaker."""
        return {breaker.name: breaker.state for breaker in (self._disk, self._starting)}

    def _make_forge(self, on_ended: Callable[[], None]) -> Forge:
        home = self._state_dir / "tezzeret"
        home.mkdir(parents=True, exist_ok=True)
        worker_log = home / "worker.log"
        if worker_log.exists() and worker_log.stat().st_size > _LOG_BYTES:
            worker_log.replace(home / "worker.log.1")
        worker = ChildSpec(
            name="forge-worker",
            target=self._worker_target,
            args={
                "library": str(self._state_dir / "urza"),
                "memory_bytes": self._settings.memory_bytes,
            },
            nice=self._settings.nice,
            environment={"OMP_NUM_THREADS": "1", **self._environment},
            log_path=worker_log,
        )
        return Forge(
            self._state_dir,
            worker,
            settings=self._settings,
            metrics=self._metrics,
            clock=self._clock,
            fingerprint=self._fingerprint(),
            disk=self._disk,
            starting=self._starting,
            on_ended=on_ended,
        )

    async def _on_message(
        self, forge: Forge, answers: Answers, message: "Message", _envelope: EventEnvelope
    ) -> None:
        """Turn a request into a job, once for each request id."""
        if not isinstance(message, KernelRequest):
            return
        try:
            work = messages.work_of(
                message, fingerprint=forge.fingerprint, torch_version=installed_torch()
            )
        except messages.RequestRefusedError as reason:
            await self._bus.publish(messages.refusal(message, str(reason)))
            return
        await forge.on_disk(forge.queue.request, message.request_id, message.run_id, work)
        await forge.recount()
        forge.wake()
        answers.wake()
