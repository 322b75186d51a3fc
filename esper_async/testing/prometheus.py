"""A real Prometheus for tests: where it is, and one that runs.

Where it may, `bin/esper-test` installs Debian's package `prometheus`.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from esper_async.nissa.prometheus import free_port, prometheus_program

_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class RunningPrometheus:
    """A server that answers."""

    url: str
    http: aiohttp.ClientSession

    async def get(self, path: str, query: Mapping[str, str] | None = None) -> Any:
        """The `data` of an answer; raises ValueError with Prometheus's own words."""
        async with self.http.get(self.url + path, params=query) as answer:
            body = json.loads(await answer.read())
        if body.get("status") != "success":
            raise ValueError(f"{path} {query}: {body.get('error')}")
        return body["data"]


@asynccontextmanager
async def running_prometheus(config: Path, data: Path) -> AsyncIterator[RunningPrometheus]:
    """Run a server with this configuration file until the block ends.

    Raises:
        FileNotFoundError: there is no Prometheus here.
        TimeoutError: it did not come up.
    """
    program = prometheus_program("prometheus")
    if program is None:
        raise FileNotFoundError("needs Prometheus: apt-get install prometheus")
    port = free_port()
    server = await asyncio.create_subprocess_exec(
        program, f"--config.file={config}", f"--storage.tsdb.path={data}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        async with aiohttp.ClientSession() as http:
            running = RunningPrometheus(f"http://127.0.0.1:{port}", http)
            await _answers(running)
            yield running
    finally:
        if server.returncode is None:
            server.terminate()
        await server.wait()


async def _answers(running: RunningPrometheus) -> None:
    async with asyncio.timeout(_PATIENCE_S):
        while True:
            try:
                async with running.http.get(f"{running.url}/-/ready") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                pass
            await asyncio.sleep(0.05)
