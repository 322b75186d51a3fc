"""What runs give cause to alert about by themselves: a controller that was replaced by `static`.

The journal is the source. An alert is told over the bus when it begins, again from time to time for
those who were away, and once more when its run has ended.
"""

from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from esper_async.leyline import Alert, AlertState, TelemetryLevel
from esper_async.oona.errors import FAULTS, Backpressure
from esper_async.runtime.clock import Clock
from esper_async.runtime.errors import BreakerOpen
from esper_async.tamiyo.hub import Hub
from esper_async.tamiyo.picture import RunPicture

log = structlog.get_logger(__name__)
CONTROLLER_REPLACED: Final = "controller_replaced"
LOOK_EVERY_S, REPEAT_EVERY_S = 1.0, 30.0
_AWAY = (*FAULTS, BreakerOpen, Backpressure)


class RunAlerts:
    """Tells, by `publish`, what holds of the hub's runs. All calls from one event loop."""

    def __init__(
        self, hub: Hub, publish: Callable[[Alert], Awaitable[object]], *, clock: Clock
    ) -> None:
        self._hub = hub
        self._publish = publish
        self._clock = clock
        self._told: dict[str, tuple[float, Alert]] = {}

    async def keep_telling(self) -> None:
        """Look, and tell, until cancelled. While the bus is away it is tried again."""
        while True:
            try:
                await self._tell()
            except _AWAY as error:
                log.debug("alerts_of_runs_wait", error=str(error))
            await self._clock.sleep(LOOK_EVERY_S)

    async def _tell(self) -> None:
        now = self._clock.monotonic()
        holds = {each.id: each for each in self._hub.live() if each.replaced is not None}
        for run_id in self._told.keys() - holds.keys():
            _, alert = self._told[run_id]
            alert.state = AlertState.ALERT_STATE_RESOLVED
            alert.ended_at = self._clock.time()
            await self._publish(alert)
            del self._told[run_id]
        for run_id, picture in holds.items():
            told_at, alert = self._told.get(run_id) or (None, _alert(picture))
            if told_at is None or now - told_at >= REPEAT_EVERY_S:
                await self._publish(alert)
                self._told[run_id] = (now, alert)


def _alert(picture: RunPicture) -> Alert:
    why, since = picture.replaced or ("", 0.0)
    return Alert(
        version=1,
        alert_id=f"{CONTROLLER_REPLACED}/{picture.id}",
        name=CONTROLLER_REPLACED,
        level=TelemetryLevel.TELEMETRY_LEVEL_ERROR,
        state=AlertState.ALERT_STATE_FIRING,
        summary=f"Run {picture.name} decides nothing any more: its policy was replaced, {why}.",
        started_at=since,
        labels={"run": picture.id},
    )
