"""Telling those who asked how their job ended; what cannot be told now is told later."""

from typing import TYPE_CHECKING

import anyio
import structlog
from anyio import to_thread

from esper_async.runtime.clock import Clock
from esper_async.tezzeret import messages
from esper_async.tezzeret.forge import Forge
from esper_async.tezzeret.job import Answer, JobKind, JobState

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
        elif job.work.kind is JobKind.PROVE:
            certificate = await to_thread.run_sync(forge.library.certificate, job.key)
            if certificate is None:
                await forge.on_disk(forge.queue.repeat, job.id)
                forge.wake()
                return
            if certificate["passed"]:
                await self._bus.publish(messages.ready(answer, certificate))
            else:
                await self._bus.publish(messages.error(answer, "; ".join(certificate["failures"])))
        await forge.on_disk(forge.queue.answered, answer.request_id)
