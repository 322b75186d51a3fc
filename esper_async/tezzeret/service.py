"""The supervisor side of the forge: requests in, answers out, and what it shows of itself."""

import functools
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from esper_async.leyline import TOPICS, EventEnvelope, KernelRequest, load_signer
from esper_async.runtime.breakers import Breakers
from esper_async.runtime.child import ChildSpec
from esper_async.runtime.clock import Clock, SystemClock
from esper_async.runtime.log_file import rotate
from esper_async.runtime.metrics import Registry
from esper_async.tezzeret import messages
from esper_async.tezzeret.answers import Answers
from esper_async.tezzeret.fingerprint import forge_fingerprint, installed_torch
from esper_async.tezzeret.forge import Forge
from esper_async.tezzeret.job import JobKind
from esper_async.tezzeret.metrics import ForgeMetrics
from esper_async.tezzeret.settings import ForgeSettings

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from esper_async.oona import Bus

_LOG_BYTES = 1 << 20
_CACHE_BYTES = 512 << 20


class TezzeretService:
    """The forge. It proves what Urza lacks for the interfaces that were asked about, and compiles.

    Its workers run at the lowest priority, only while there is work. `worker_target` is what the
    child runs, `environment` is laid over its environment; `fingerprint` says, when the service
    starts, which code its results hold for.
    """

    name = "tezzeret"

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
        registry = registry or Registry()
        self._metrics = ForgeMetrics(registry)
        self._clock: Clock = clock or SystemClock()
        self.breakers = Breakers("tezzeret", registry=registry, clock=self._clock)
        self._worker_target = worker_target
        self._environment = dict(environment or {})
        self._fingerprint = fingerprint
        self._disk = self.breakers.make(
            "tezzeret.queue", is_failure=lambda error: isinstance(error, OSError | sqlite3.Error)
        )
        self._starting = self.breakers.make("tezzeret.worker")
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
                for bench in forge.benches:
                    group.start_soon(forge.work, bench)
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
        doing = ", ".join(forge.working_on) or "idle"
        if not forge.counts:
            doing = "idle: nobody has asked for a kernel yet"
        return {
            "doing": doing,
            "jobs": dict(forge.counts),
            "interfaces": forge.interfaces,
            "conservative": forge.conservative or None,
            "worker_pids": [bench.pid for bench in forge.benches if bench.pid is not None],
            "workers_started": sum(bench.started for bench in forge.benches),
        }

    @property
    def _compiler_cache(self) -> Path:
        """Where the workers' compilers keep what may be of use to the next."""
        return self._state_dir / "tezzeret" / "inductor"

    def _make_forge(self, on_ended: Callable[[], None]) -> Forge:
        _empty_if_large(self._compiler_cache)
        return Forge(
            self._state_dir,
            [self._worker(number) for number in range(1, self._settings.workers + 1)],
            settings=self._settings,
            metrics=self._metrics,
            clock=self._clock,
            fingerprint=self._fingerprint(),
            signer=load_signer(self._state_dir / "leyline.key"),
            disk=self._disk,
            starting=self._starting,
            on_ended=on_ended,
        )

    def _worker(self, number: int) -> ChildSpec:
        """What one worker runs; it has a scratch folder of its own, and the compiler's with it."""
        home = self._state_dir / "tezzeret"
        scratch = home / f"scratch-{number}"
        scratch.mkdir(parents=True, exist_ok=True)
        worker_log = home / f"worker-{number}.log"
        rotate(worker_log, _LOG_BYTES)
        return ChildSpec(
            name=f"forge-worker-{number}",
            target=self._worker_target,
            args={
                "library": str(self._state_dir / "urza"),
                "key": str(self._state_dir / "leyline.key"),
                "scratch": str(scratch),
                "memory_bytes": self._settings.memory_bytes,
                "output_bytes": self._settings.output_bytes,
            },
            nice=self._settings.nice,
            environment={
                "OMP_NUM_THREADS": "1",
                "TMPDIR": str(scratch),
                "TORCHINDUCTOR_CACHE_DIR": str(self._compiler_cache),
                **self._environment,
            },
            log_path=worker_log,
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
        if work.kind is not JobKind.COMPILE:
            forge.hurry()
        answers.wake()


def _empty_if_large(cache: Path) -> None:
    """Empty the compilers' cache once it is large; only while no worker that knows it is there.

    A compiler remembers which headers it has put there, and fails where they are gone.
    """
    with suppress(OSError):  # a worker that outlived its forge may still be tidying up
        if sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) > _CACHE_BYTES:
            shutil.rmtree(cache, ignore_errors=True)
