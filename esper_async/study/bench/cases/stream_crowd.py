"""What do a hundred readers of the stream notice of twenty among them that have stalled?

The stalled ones are real connections that never read. All that is sent must reach the others, in
order and as soon as without them; the stalled are dropped, and the memory does not grow with what
they were not given.
"""

import asyncio
import re
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp

from esper_async.nissa.stream import Stream
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    wants,
)
from esper_async.study.bench.nissa_house import House, nissa_house

READERS, STALLED = 100, 20
MOST_MEMORY_MB = 48.0
MOST_DELAY_RATIO = 4.0
_MESSAGE_BYTES = 64 * 1024
_MESSAGES = {Effort.SHORT: 400, Effort.FULL: 5_000}
_PAUSE_S = 0.005
_DROPPED = "stalled readers that were dropped"
_MISSED = "messages that the other readers missed"
_DELAY = "delay of delivery, 95th percentile, over that without stalled readers"
_MEMORY = "memory that the stalled readers hold"
_LOAD = re.compile(r'{"type":"load","n":(?P<n>\d+),"at":(?P<at>[\d.]+)')
"""The head of a message: to parse all of them would cost more than to send them."""
_UPGRADE = (
    "GET /ws/stream HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)


def measure(effort: Effort) -> list[Row]:
    """Send to readers of whom none has stalled, then to as many of whom twenty have."""
    count = _MESSAGES[effort]
    with tempfile.TemporaryDirectory(prefix="esper-crowd-") as folder:
        crowd = asyncio.run(_sent(Path(folder) / "crowd", count, stalled=STALLED))
        rows = []
        if wants(_DELAY):
            calm = asyncio.run(_sent(Path(folder) / "calm", count, stalled=0))
            rows.append(
                judged(_DELAY, crowd["delay_ms"], "ms", Bar("at most", MOST_DELAY_RATIO),
                       baseline=calm["delay_ms"])
            )  # fmt: skip
    return [
        *rows,
        judged(_DROPPED, crowd["dropped"], "", Bar("at least", STALLED), note=f"of {STALLED}"),
        judged(_MISSED, crowd["missed"], "", Bar("at most", 0),
               note=f"{READERS - STALLED} readers, {count} messages of 64 KiB"),
        judged(_MEMORY, crowd["held_mb"], "MiB", Bar("at most", MOST_MEMORY_MB),
               note=f"of {count * _MESSAGE_BYTES >> 20} MiB that were sent"),
    ]  # fmt: skip


async def _sent(folder: Path, count: int, *, stalled: int) -> dict[str, float]:
    async with nissa_house(folder) as house, aiohttp.ClientSession() as http:
        writers = [await _stall(house.url) for _ in range(stalled)]
        delays_ms: list[float] = []
        async with asyncio.TaskGroup() as group:
            readers = [
                group.create_task(_reader(http, house.url, count, delays_ms))
                for _ in range(READERS - STALLED)
            ]
            await _joined(house, READERS - STALLED + stalled)
            held_mb = await _send(house, count)
            missed = 0
            for reader in readers:
                try:
                    missed += count - await asyncio.wait_for(asyncio.shield(reader), 20.0)
                except TimeoutError:
                    reader.cancel()
                    missed += count
        dropped = house.nissa.metrics.readers_dropped.values()[0][1]
        for writer in writers:
            writer.close()
    return {
        "dropped": dropped,
        "missed": missed,
        "delay_ms": statistics.quantiles(delays_ms or [0.0, 0.0], n=20)[-1],
        "held_mb": held_mb,
    }


async def _joined(house: House, count: int) -> None:
    while True:
        if len(house.nissa.context.stream) >= count:
            return
        await asyncio.sleep(0.01)


async def _send(house: House, count: int) -> float:
    """Send all and return how many MiB wait for readers at the end."""
    filling = "x" * _MESSAGE_BYTES
    stream = house.nissa.context.stream
    for number in range(count):
        stream.send({"type": "load", "n": number, "at": time.monotonic(), "x": filling})
        await asyncio.sleep(_PAUSE_S)
    return stream.waiting_bytes() / 2**20


async def _stall(url: str) -> asyncio.StreamWriter:
    """Open a stream and never read from it."""
    place = urlsplit(url)
    _, writer = await asyncio.open_connection(place.hostname, place.port, limit=1_024)
    writer.write(_UPGRADE.format(host=place.netloc).encode())
    await writer.drain()
    return writer


async def _reader(http: aiohttp.ClientSession, url: str, count: int, delays_ms: list[float]) -> int:
    """Read until the last message; return how many came, in order."""
    came = 0
    async with http.ws_connect(f"{url}/ws/stream", max_msg_size=0) as socket:
        async for message in socket:
            found = _LOAD.match(message.data)
            if found is None:
                continue
            number = int(found["n"])
            delays_ms.append((time.monotonic() - float(found["at"])) * 1e3)
            came += number == came
            if number == count - 1:
                break
    return came


_whole_drop = Stream._drop


def _drops_all(stream: Stream, _reader: Any) -> None:
    for reader in list(stream._readers):
        _whole_drop(stream, reader)


_whole_send = Stream.send


def _waits(stream: Stream, message: dict[str, Any]) -> None:
    if len(stream) > READERS - STALLED and message.get("n", 1) % 7 == 0:
        time.sleep(0.5)
    _whole_send(stream, message)


@contextmanager
def _kept_for_ever() -> Iterator[None]:
    with (
        replaced("esper_async.nissa.stream.BACKLOG", 10**9),
        replaced("esper_async.nissa.stream.SEND_TIMEOUT_S", 600.0),
    ):
        yield


BENCHMARK = Benchmark(
    name="stream-crowd",
    question="what do readers of the stream notice of others that have stalled?",
    measure=measure,
    mutants=(
        Mutant(
            "a backlog without a bound",
            "what a reader does not take is kept for it",
            _kept_for_ever,
            fails=(_DROPPED, _MEMORY),
        ),
        Mutant(
            "everybody is dropped",
            "one reader that is dropped takes the others along",
            lambda: replaced("esper_async.nissa.stream.Stream._drop", _drops_all),
            fails=(_MISSED,),
        ),
        Mutant(
            "slow readers are waited for",
            "the sender gives them a while to catch up",
            lambda: replaced("esper_async.nissa.stream.Stream.send", _waits),
            fails=(_DELAY,),
        ),
    ),
)
