"""A server, and a reader that acknowledges what must not be lost, as a supervisor has them.

They are a process of their own: what they compute is not that of the process which they serve.
"""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from esper_async.leyline import Signer
from esper_async.leyline.registry import TOPICS
from esper_async.oona.bus import Bus
from esper_async.study.bench.bus_load import KEY, running_server


@contextmanager
def served_and_acknowledged() -> Iterator[str]:
    """Have a process serve, and acknowledge all that is published; yield its URL.

    Raises:
        RuntimeError: it did not start; why is on standard error.
    """
    with subprocess.Popen([sys.executable, "-m", __name__], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None
            url = child.stdout.readline().decode().strip()
            if not url:
                raise RuntimeError("the process that serves did not start")
            yield url
        finally:
            child.terminate()


async def _serve() -> None:
    me = asyncio.current_task()
    assert me is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, me.cancel)
    async with running_server() as server:
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.close()  # the log of what reads goes nowhere
        sys.stdout = sys.stderr
        await _read(server.url)


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
    try:
        asyncio.run(_serve())
    except asyncio.CancelledError:
        sys.exit(0)
