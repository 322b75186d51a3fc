"""Telling those who asked how their job ended; what cannot be told now is told later."""

from typing import TYPE_CHECKING

import anyio
import structlog
from anyio import to_thread

from esper_async.kasmina.compiling.kernel_artifact import artifact_key, record_key
from esper_async.kasmina.compiling.kernel_record import Compilation
from esper_async.leyline import KernelError, KernelReady
from esper_async.runtime.clock import Clock
from esper_async.tezzeret import messages
from esper_async.tezzeret.forge import Forge
from esper_async.tezzeret.job import Answer, JobKind, JobState
from esper_async.urza import Library

if TYPE_CHECKING:
    from esper_async.oona import Bus

log = structlog.get_logger("tezzeret")


class Answers:
    """At least once for each request: it is marked as answered after the bus has taken it."""

    def __init__(self, bus: "Bus", *, clock: Clock, retry_s: float) -> None:
        self._bus = bus
        self._clock = clock
        self._retry_s = retry_s
        self._due = anyio.Event()

    def wake(self) -> None:
        """There may be something to tell."""
        self._due.set()

    async def tell(self, forge: Forge) -> None:
        """Answer until cancelled."""
        while True:
            self._due = anyio.Event()
            try:
                for answer in await forge.on_disk(forge.queue.unanswered):
                    await self._tell_one(forge, answer)
            except Exception as error:  # noqa: BLE001 - kept in the queue, said, tried again
                log.warning("forge_answer_delayed", error=f"{type(error).__name__}: {error}")
                await self._clock.sleep(self._retry_s)
                continue
            await self._due.wait()

    async def _tell_one(self, forge: Forge, answer: Answer) -> None:
        job = answer.job
        if job.state is not JobState.DONE:
            await self._bus.publish(messages.error(answer, job.error))
        elif job.work.kind is not JobKind.SURVEY:
            message = await to_thread.run_sync(_made, forge.library, answer)
            if message is None:
                await forge.on_disk(forge.queue.repeat, job.id)
                forge.wake()
                return
            await self._bus.publish(message)
        await forge.on_disk(forge.queue.answered, answer.request_id)


def _made(library: Library, answer: Answer) -> KernelReady | KernelError | None:
    """Say what was made, by what the library has of it; None if it has lost it."""
    key = answer.job.key
    if answer.job.work.kind is JobKind.COMPILE:
        return _compiled(library, answer)
    certificate = library.certificate(key)
    if certificate is None:
        return None
    if certificate["passed"]:
        return messages.ready(answer, certificate)
    return messages.error(answer, "; ".join(certificate["failures"]))


def _compiled(library: Library, answer: Answer) -> KernelReady | None:
    record = library.read(record_key(answer.job.key))
    if record is None:
        return None
    found = Compilation.from_json(record)
    artifact = library.get(artifact_key(found.key)) if found.kept else None
    if found.kept and artifact is None:
        return None
    return messages.compiled(answer, found, "" if artifact is None else artifact.blob)
