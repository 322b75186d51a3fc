"""A Nissa in a process of its own. `python -m esper_async.study.bench.nissa_child FOLDER RATE`

It takes RATE packets a second and tells of a run that goes on. Its first line of output is its
address; when its input ends, so does it.
"""

import asyncio
import math
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from esper_async.leyline import EventEnvelope, TelemetryPacket
from esper_async.nissa.options import NissaOptions
from esper_async.runtime.logging import configure_logging
from esper_async.study.bench.nissa_house import House, nissa_house

BOUNDARY_S = 0.5


def main() -> None:
    """Serve until the input ends."""
    configure_logging("warning")
    asyncio.run(_serve(Path(sys.argv[1]), float(sys.argv[2])))


async def _serve(folder: Path, rate: float) -> None:
    over = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait_for_the_end() -> None:
        sys.stdin.read()
        loop.call_soon_threadsafe(over.set)

    threading.Thread(target=wait_for_the_end, daemon=True).start()
    options = NissaOptions(changes_per_minute=10**9, alert_every_s=2.0)
    async with nissa_house(folder, options=options) as house, asyncio.TaskGroup() as group:
        sys.stdout.write(f"{house.url}\n")
        sys.stdout.flush()
        tasks = [group.create_task(_pump(house, rate)), group.create_task(_train(house))]
        await over.wait()
        for task in tasks:
            task.cancel()


async def _pump(house: House, rate: float) -> None:
    """Hand packets over, a few every hundredth of a second, as the bus does."""
    envelope, number, began = EventEnvelope(), 0, time.monotonic()
    while True:
        while number < (time.monotonic() - began) * rate:
            number += 1
            packet = TelemetryPacket(
                version=1, packet_id=f"{os.getpid()}/{number}", source="tolaria", run_id="lag"
            )
            for name in ("loss", "accuracy"):
                packet.points.add(name=f"tolaria.validation.{name}", value=0.5)
            packet.points.add(name="kasmina.alpha", value=0.5, labels={"seed": f"s{number % 8}"})
            if number % 100 == 0:
                packet.events.add(name="lag.event", message=f"event {number}", created_at=1.7e9)
            await house.nissa.ingest.handle(packet, envelope)
        await asyncio.sleep(0.01)


async def _train(house: House) -> None:
    """Tell of a run that comes to a boundary again and again."""
    place: dict[str, Any] = {"run": "lag", "step": 0, "epoch": 0, "boundary": 0}
    started = {
        "seq": 1, "kind": "run_started", "time": time.time(), **place, "name": "lag",
        "policy": "static", "epochs": 10_000, "sites": [],
    }  # fmt: skip
    await house.hub.accept(started)
    boundary = 0
    while True:
        boundary += 1
        loss = math.exp(-boundary / 50)
        await house.hub.accept(
            {
                "seq": boundary + 1, "kind": "boundary", "time": time.time(), **place,
                "boundary": boundary, "epoch": boundary, "step": boundary * 10, "seeds": [],
                "metrics": {"training_loss": loss, "validation_loss": loss + 0.1},
                "boundary_ms": {"total": 4.0, "decision": 2.0}, "samples_per_s": 5e3,
                "parameters": 858,
            }
        )  # fmt: skip
        await asyncio.sleep(BOUNDARY_S)


if __name__ == "__main__":
    main()
