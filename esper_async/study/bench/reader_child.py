"""A process that reads and acknowledges what must not be lost, as a supervisor does."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from esper_async.leyline import Signer
from esper_async.leyline.registry import TOPICS
from esper_async.oona.bus import Bus
from esper_async.study.bench.bus_load import KEY


@contextmanager
def acknowledging(url: str) -> Iterator[None]:
    """Have another process acknowledge all that is published at `url`, for a block."""
    told = subprocess.DEVNULL  # its log; what it raises is on standard error
    child = subprocess.Popen([sys.executable, "-m", __name__, url], stdout=told)
    try:
        yield
    finally:
        child.terminate()
        child.wait()


async def _read(url: str) -> None:
    async with (
        Bus(url, signer=Signer(KEY), source="bench-reader") as bus,
        asyncio.TaskGroup() as all_,
    ):
        for topic in TOPICS.values():
            for group in topic.required_groups:
                all_.create_task(bus.consume(topic.name, group, _keep_nothing, consumer="reader"))


async def _keep_nothing(_message: object, _envelope: object) -> None:
    """Do nothing: that it returned acknowledges."""


if __name__ == "__main__":
    asyncio.run(_read(sys.argv[1]))
