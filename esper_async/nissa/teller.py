"""Tells the open streams what changes: runs, events, status; makes events of journal news."""

from collections.abc import Mapping
from typing import Any

import structlog

from esper_async.nissa.api.status import status_of
from esper_async.nissa.context import NissaContext
from esper_async.nissa.event_store import Event
from esper_async.nissa.run_events import events_of
from esper_async.nissa.run_list import list_runs
from esper_async.runtime.errors import BreakerOpen

log = structlog.get_logger(__name__)
_GATHER_S = 0.25
_CANNOT_BE_TOLD = (AttributeError, LookupError, TypeError, ValueError, OSError, BreakerOpen)
"""Of a run whose records are odd, or whose journal's disk is away."""
_EVENTS_AT_ONCE = 200


class Teller:
    """Feeds the stream of `context`. All calls from one event loop."""

    def __init__(self, context: NissaContext, *, retention_s: float) -> None:
        self.context = context
        self._retention_s = retention_s
        self._told: list[Event] = []
        self._states: dict[str, str] = {}
        self._blueprints = {each.id: each.name for each in context.blueprints.records}

    def note(self, event: Event) -> None:
        """Store an event that came by another way than the bus, and show it."""
        if self.context.events.add(event):
            self.hear(event)

    def hear(self, event: Event) -> None:
        """Show a stored event to the stream's readers soon."""
        self._told.append(event)

    def tell_events(self) -> None:
        """Show what was heard since the last time; of very many the latest."""
        told, self._told = self._told, []
        if told:
            items = [shown(event) for event in told[-_EVENTS_AT_ONCE:]]
            self.context.stream.send({"type": "events", "items": items})

    async def tell_status(self) -> None:
        """Repeat the status and the list of runs: it is also the stream's heartbeat."""
        self._watch_services()
        if len(self.context.stream):
            status = status_of(self.context)
            runs = [
                {**run, "seeds": None} for run in list_runs(self.context.hub, self.context.runs)
            ]
            self.context.stream.send({"type": "status", "status": status, "runs": runs})

    def _watch_services(self) -> None:
        """Make an event of each service's change of state."""
        for name, facts in self.context.system()["services"].items():
            state, before = facts["state"], self._states.get(name)
            self._states[name] = state
            if state == before or (before is None and state == "ready"):
                continue
            trouble = state in ("backing_off", "failed")
            text = f"{name} is {state.replace('_', ' ')}. {facts.get('error', '')}"
            self.note(
                Event(
                    uid=f"service/{name}/{state}/{facts['since']}",
                    time=self.context.clock.time(),
                    level="error" if trouble else "info",
                    source="supervisor",
                    name=f"service.{state}",
                    message=text.strip(),
                )
            )

    async def follow_runs(self) -> None:
        """Tell the stream what is new in each run, gathered for a quarter of a second."""
        hub = self.context.hub
        with hub.subscribe() as subscription:
            for picture in hub.live():
                subscription.tell(picture.id, 0)  # what was told before one listened
            async for changes in subscription:
                for run_id, after_seq in changes.items():
                    await self._tell_run(run_id, after_seq)
                await self.context.clock.sleep(_GATHER_S)

    async def _tell_run(self, run_id: str, after_seq: int) -> None:
        """Tell what is new in a run; one that tells what no engine does is left out."""
        try:
            view = (await self.context.hub.picture(run_id)).view(after_seq)
            self._note_run(run_id, view)
            self.context.stream.send({"type": "run", "id": run_id, "view": view})
        except _CANNOT_BE_TOLD as error:
            log.error("run_cannot_be_told", run=run_id, reason=repr(error))

    def _note_run(self, run_id: str, view: Mapping[str, Any]) -> None:
        oldest = self.context.clock.time() - self._retention_s
        for event in sorted(
            events_of(run_id, view, self._blueprints), key=lambda event: event.time
        ):
            if event.time >= oldest:
                self.note(event)


def shown(event: Event) -> dict[str, Any]:
    """An event for the stream, before it has a number."""
    return {
        "id": None,
        "uid": event.uid,
        "time": event.time,
        "level": event.level,
        "source": event.source,
        "name": event.name,
        "run": event.run or None,
        "message": event.message,
        "fields": event.fields,
    }
