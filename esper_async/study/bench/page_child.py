"""A Nissa that tells of a long run, in a process of its own. `python -m ... FOLDER`

Its first line of output is its address. Each line of its input is a number of hours, which it tells
of at once, as fast as readers take it; then it answers with the boundary that it has come to. When
the input ends, so does it.
"""

import asyncio
import sys
import time
from pathlib import Path

from esper_async.nissa.event_store import Event
from esper_async.nissa.options import NissaOptions
from esper_async.runtime.logging import configure_logging
from esper_async.study.bench.long_run import BOUNDARIES_AN_HOUR, long_run
from esper_async.study.bench.nissa_house import nissa_house

_AT_ONCE = 90
"""Boundaries of a story of hours between two looks at the readers."""
_EVENTS = 2
"""Events of other things a boundary."""
_STATUS_EVERY_S, _PAUSE_S = 0.25, 0.02


async def _serve(folder: Path) -> None:
    began = time.time() - 86_400.0
    story, boundary, events = long_run(began), 0, 0
    loop = asyncio.get_running_loop()
    options = NissaOptions(status_every_s=_STATUS_EVERY_S)
    async with nissa_house(folder, options=options) as house:
        _say(house.url)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            until = boundary + max(1, round(float(line) * BOUNDARIES_AN_HOUR))
            while boundary < until:
                for record in next(story):
                    await house.hub.accept(record)
                boundary += 1
                for _ in range(_EVENTS):
                    events += 1
                    text = f"event {events} of a long day, with a few words about it"
                    event = Event(f"e{events}", time.time(), "info", "training", "log", text)
                    house.nissa.teller.note(event)
                if boundary % _AT_ONCE == 0:
                    await asyncio.sleep(_PAUSE_S)
                    while (  # noqa: ASYNC110 - of queues that tell nobody
                        house.nissa.context.stream.waiting_bytes()
                        or house.nissa.context.events.waiting
                    ):
                        await asyncio.sleep(_PAUSE_S)
            _say(str(boundary - 1))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    configure_logging("warning")
    asyncio.run(_serve(Path(sys.argv[1])))
