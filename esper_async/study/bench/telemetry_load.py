"""Telemetry over a supervisor's bus: `python -m esper_async.study.bench.telemetry_load STATE RATE`

It prints a line, and until its input ends publishes RATE packets a second of a run that nobody
trains, a few every hundredth of a second.
"""

import asyncio
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from esper_async.leyline import TelemetryPacket
from esper_async.leyline.keys import load_signer
from esper_async.oona import Bus, EmbeddedServer
from esper_async.oona.errors import Backpressure, BusUnavailable
from esper_async.runtime.errors import BreakerOpen
from esper_async.runtime.logging import configure_logging

_PAUSE_S = 0.01
_EVENT_EVERY = 100


def main() -> None:
    """Publish until the input ends."""
    configure_logging("warning")
    over = threading.Event()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        over.set()

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    asyncio.run(_publish(Path(sys.argv[1]), float(sys.argv[2]), over))


async def _publish(state: Path, rate: float, over: threading.Event) -> None:
    signer, url = load_signer(state / "leyline.key"), EmbeddedServer(state / "redis").url
    made = 0
    async with Bus(url, signer=signer, source="tolaria/load") as bus:
        sys.stdout.write("\n")
        sys.stdout.flush()
        began = time.monotonic()
        while not over.is_set():
            due = int((time.monotonic() - began) * rate)
            packets = [_packet(number) for number in range(made, due)]
            made = due
            with suppress(Backpressure, BusUnavailable, BreakerOpen):  # the reader counts what came
                await bus.publish_many(packets)
            await asyncio.sleep(_PAUSE_S)


def _packet(number: int) -> TelemetryPacket:
    packet = TelemetryPacket(
        version=1, packet_id=f"load/{number}", source="tolaria", run_id="load",
        created_at=time.time(),
    )  # fmt: skip
    for name in ("loss", "accuracy"):
        packet.points.add(name=f"tolaria.validation.{name}", value=0.5)
    packet.points.add(name="kasmina.alpha", value=0.5, labels={"seed": f"s{number % 8}"})
    if number % _EVENT_EVERY == 0:
        packet.events.add(name="load.event", message=f"event {number}", created_at=time.time())
    return packet


if __name__ == "__main__":
    main()
