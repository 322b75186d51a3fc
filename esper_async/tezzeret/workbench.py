"""One worker of the forge: started when there is work, killed when a job exceeds its limit."""

import asyncio
from collections.abc import Callable
from typing import Any

from esper_async.runtime.child import Child, ChildSpec
from esper_async.tezzeret.job import JobKind, Work
from esper_async.tezzeret.running_time import RunningTime

Message = dict[str, Any]
_LOOK_S = 2.0
"""So often it is looked how long the worker has waited for a core."""
MakeChild = Callable[[ChildSpec, Callable[[Message], None]], Child]


class WorkerLostError(Exception):
    """The worker died, or was killed at its limit, before it reported; the message says why."""


class WorkerInterruptedError(Exception):
    """The worker was killed over its job, since something more urgent had come."""


class WorkerNotStartedError(Exception):
    """The worker did not get as far as taking a job; the message says why."""


def _make_child(spec: ChildSpec, on_message: Callable[[Message], None]) -> Child:
    return Child(spec, on_message=on_message)


class Workbench:
    """At most one worker child. For one task at a time, in the loop of the main thread.

    A worker has `start_limit_s` to import torch, `job_limit_s` for each job, and
    `compile_limit_s` for one that compiles. What it waits for a core is not
    counted, as `RunningTime` has it.
    """

    def __init__(
        self,
        spec: ChildSpec,
        *,
        start_limit_s: float,
        job_limit_s: float,
        compile_limit_s: float,
        make_child: MakeChild = _make_child,
    ) -> None:
        self._spec = spec
        self._start_limit_s = start_limit_s
        self._job_limit_s = job_limit_s
        self._compile_limit_s = compile_limit_s
        self._interrupted = False
        self._make_child = make_child
        self._child: Child | None = None
        self._awaited: dict[str, asyncio.Future[Message]] = {}
        self.started = 0

    @property
    def running(self) -> bool:
        """Whether there is a living worker."""
        return self._child is not None and self._child.running

    @property
    def pid(self) -> int | None:
        """The living worker's process id."""
        return self._child.pid if self._child is not None and self._child.running else None

    async def prepare(self) -> None:
        """See that there is a warmed worker.

        Raises WorkerNotStartedError, ChildStartError.
        """
        if self.running:
            return
        self._child = self._make_child(self._spec, self._receive)
        warm = self._expect("warm")
        await self._child.start()
        self.started += 1
        try:
            await self._reply_or_death(self._child, warm, self._start_limit_s)
        except WorkerLostError as lost:
            raise WorkerNotStartedError(str(lost)) from lost

    async def perform(self, work: Work) -> Message:
        """Have the prepared worker do `work`; what it reported.

        Raises WorkerLostError when it died over it, or did not end within the limit and was
        killed; WorkerInterruptedError when `interrupt` was called.
        """
        self._interrupted = False
        child = self._child
        if child is None or not child.running:
            raise WorkerLostError("the worker ended before it was given the job")
        ended = self._expect(work.id)
        if not child.request("work", work=work.to_json()):
            raise WorkerLostError("the worker ended as it was given the job")
        compiles = work.kind is JobKind.COMPILE
        limit_s = self._compile_limit_s if compiles else self._job_limit_s
        try:
            return await self._reply_or_death(child, ended, limit_s)
        except WorkerLostError as lost:
            if self._interrupted:
                raise WorkerInterruptedError("something more urgent had come") from lost
            raise

    def interrupt(self) -> None:
        """Kill the worker over the job that it has."""
        if self._child is not None and self._child.running and self._awaited:
            self._interrupted = True
            self._child.kill()

    async def stop(self, deadline_s: float) -> None:
        """End the worker, by force past the deadline; when cancelled, call it again."""
        if self._child is not None and self._child.running:
            await self._child.stop(deadline_s)
        self._child = None

    async def _reply_or_death(
        self, child: Child, reply: asyncio.Future[Any], limit_s: float
    ) -> Message:
        death = asyncio.ensure_future(child.wait())
        assert child.pid is not None  # it was started
        clock = RunningTime(child.pid, limit_s)
        left_s = limit_s
        try:
            while left_s > 0 and not (reply.done() or death.done()):
                await asyncio.wait(
                    {reply, death},
                    timeout=min(left_s, _LOOK_S),
                    return_when=asyncio.FIRST_COMPLETED,
                )
                left_s = clock.left_s()
            if reply.done():
                report: Message = reply.result()
                return report
            if death.done():
                raise WorkerLostError(f"the worker died: {death.result().reason}")
            child.kill()
            await death
            waited = f" beside {clock.waited_s:.0f} s of waiting for a core"
            spent = f"{limit_s:g} s{waited if clock.waited_s >= 1 else ''}"
            raise WorkerLostError(f"no result within {spent}; the worker was killed")
        finally:
            self._awaited.clear()
            reply.cancel()
            death.cancel()

    def _expect(self, name: str) -> asyncio.Future[Message]:
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._awaited[name] = future
        return future

    def _receive(self, message: Message) -> None:
        kind = message.get("type")
        name = str(message.get("job", kind)) if kind == "ended" else str(kind)
        future = self._awaited.get(name)
        if future is not None and not future.done():
            future.set_result(message)
