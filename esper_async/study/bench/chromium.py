"""A headless Chromium, started bare or driven over its DevTools protocol."""

import asyncio
import itertools
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp

from esper_async.runtime.processes import children, command

_PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run",
    "--disable-background-networking", "--disable-sync", "--window-size=1280,900",
)  # fmt: skip
_START_S, _ANSWER_S, _POLL_S = 60.0, 60.0, 0.02


class ChromiumError(RuntimeError):
    """There is no Chromium, it did not start, or it refused what it was asked for."""


def chromium_program() -> str | None:
    """Return the Chromium to use, `ESPER_CHROMIUM` or one on the PATH; None if there is none."""
    found = [shutil.which(name) for name in _PROGRAMS]
    return os.environ.get("ESPER_CHROMIUM") or next(filter(None, found), None)


@contextmanager
def chromium_at(url: str, profile: Path) -> Iterator[int | None]:
    """Have a page open in a browser of its own until the block ends; yield its process id.

    None where there is no browser.
    """
    program = chromium_program()
    if program is None:
        yield None
        return
    browser = subprocess.Popen(
        [program, *_FLAGS, f"--user-data-dir={profile}", "--remote-debugging-port=0", url],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield browser.pid
    finally:
        browser.terminate()
        browser.wait()


class Tab:
    """One tab of the browser `pid`, which is asked one thing at a time."""

    def __init__(self, pid: int, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._pid = pid
        self._socket = socket
        self._numbers = itertools.count(1)

    async def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; raises ChromiumError when it is refused."""
        number = next(self._numbers)
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(_ANSWER_S):
            while True:
                told = await self._socket.receive_json()
                if told.get("id") == number:
                    break
        if "error" in told:
            raise ChromiumError(f"{method}: {told['error']['message']}")
        result: dict[str, Any] = told["result"]
        return result

    async def value(self, expression: str) -> Any:
        """Return what an expression of JSON values comes to; a promise is awaited."""
        told = await self.ask(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        if "exceptionDetails" in told:
            raise ChromiumError(f"{expression}: {told['exceptionDetails']['text']}")
        return told["result"].get("value")

    def private_bytes(self) -> int:
        """Return the memory that the page's process shares with no other.

        A process is kept for the next page: the largest is the page's.
        """
        below = [self._pid]
        for pid in below:
            below += children(pid)
        return max(_private_bytes(pid) for pid in below if "--type=renderer" in command(pid))


@asynccontextmanager
async def chromium_tab(profile: Path) -> AsyncIterator[Tab]:
    """Start a browser with an empty tab, until the block ends.

    Raises:
        ChromiumError: there is none, or it does not answer.
    """
    port_file = profile / "DevToolsActivePort"
    with chromium_at("about:blank", profile) as pid:
        if pid is None:
            raise ChromiumError("this needs Chromium: apt-get install chromium")
        async with aiohttp.ClientSession() as http:
            try:
                async with asyncio.timeout(_START_S):
                    while not port_file.exists() or not port_file.read_text():  # noqa: ASYNC110
                        await asyncio.sleep(_POLL_S)
                    port = port_file.read_text().split()[0]
                    address = await _tab_of(http, port)
            except TimeoutError:
                raise ChromiumError(f"Chromium did not answer within {_START_S:g} s") from None
            async with http.ws_connect(address, max_msg_size=0) as socket:
                yield Tab(pid, socket)


def _private_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(1_024 * int(line.split()[1]) for line in lines if line.startswith("Private_"))


async def _tab_of(http: aiohttp.ClientSession, port: str) -> str:
    while True:
        async with http.get(f"http://127.0.0.1:{port}/json/list") as answer:
            targets = json.loads(await answer.text())
        for target in targets:
            if target["type"] == "page":
                return str(target["webSocketDebuggerUrl"])
        await asyncio.sleep(_POLL_S)
