"""A real server for each test, and messages to send over it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import cast

import pytest

from esper_async import leyline
from esper_async.leyline.signing import Signer
from esper_async.oona import Bus, BusSettings, EmbeddedServer, Spool
from esper_async.oona.connection import Client, connect
from esper_async.testing.redis import running_redis
from tests.oona.servers import KINDS, ServerKind

KEY = bytes(range(32))
FAST = BusSettings(
    command_timeout_s=2.0,
    lease_s=0.3,
    claim_every_s=0.1,
    retry_base_s=0.01,
    retry_cap_s=0.02,
    drain_s=2.0,
    spool_poll_s=0.02,
    reconnect_cap_s=0.1,
    publish_open_s=0.1,
    consume_open_s=0.1,
)


@pytest.fixture(params=KINDS)
def server_kind(request: pytest.FixtureRequest) -> ServerKind:
    return cast(ServerKind, request.param)


@pytest.fixture
async def server(server_kind: ServerKind, tmp_path: Path) -> AsyncIterator[EmbeddedServer]:
    binary = server_kind.binary(tmp_path)
    async with running_redis(tmp_path / "redis", binary=binary) as running:
        yield running


@pytest.fixture
async def client(server: EmbeddedServer) -> AsyncIterator[Client]:
    connected = connect(server.url, timeout_s=5.0)
    yield connected
    await connected.aclose()


@pytest.fixture
async def bus(server: EmbeddedServer) -> AsyncIterator[Bus]:
    async with make_bus(server) as opened:
        yield opened


def make_bus(server: EmbeddedServer, **options: object) -> Bus:
    """Return a bus with fast settings, not yet opened."""
    options.setdefault("settings", FAST)
    return Bus(server.url, signer=Signer(KEY), source="test", **options)  # type: ignore[arg-type]


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    opened = Spool(tmp_path / "spool")
    yield opened
    opened.close()


def report(number: int, notes: str = "") -> leyline.FieldReport:
    """Return a durable message."""
    return leyline.FieldReport(
        version=1, report_id=f"r{number}", outcome=2, run_id="run", notes=notes
    )


def alert(number: int) -> leyline.Alert:
    """Return an ordinary message."""
    return leyline.Alert(version=1, alert_id=f"a{number}", name="test")


def telemetry(number: int) -> leyline.TelemetryPacket:
    """Return a droppable message."""
    return leyline.TelemetryPacket(version=1, packet_id=f"t{number}", source="test")


def emergency(number: int) -> leyline.EmergencySignal:
    """Return a durable message of critical priority."""
    return leyline.EmergencySignal(version=1, signal_id=f"e{number}", level=4, reason="NaN")


def request(number: int) -> leyline.KernelRequest:
    """Return an ordinary message."""
    return leyline.KernelRequest(version=1, request_id=f"k{number}", blueprint_id="BP009")


class Inbox:
    """A handler that keeps what it gets; `fails` decides which messages it cannot handle."""

    def __init__(self, fails: Callable[[object], bool] = lambda message: False) -> None:
        self.messages: list[object] = []
        self.envelopes: list[leyline.EventEnvelope] = []
        self.attempts = 0
        self._fails = fails
        self._changed = asyncio.Event()

    async def __call__(self, message: object, envelope: leyline.EventEnvelope) -> None:
        self.attempts += 1
        if self._fails(message):
            raise ValueError("poison")
        self.messages.append(message)
        self.envelopes.append(envelope)
        self._changed.set()

    async def has(self, count: int, timeout_s: float = 10.0) -> list[object]:
        """Wait until `count` messages have come."""
        async with asyncio.timeout(timeout_s):
            while len(self.messages) < count:
                self._changed.clear()
                await self._changed.wait()
        return self.messages


async def until(condition: Callable[[], object], timeout_s: float = 10.0) -> None:
    """Wait until `condition()` is true, awaiting it if it is a coroutine."""
    async with asyncio.timeout(timeout_s):
        while True:
            answer = condition()
            if asyncio.iscoroutine(answer):
                answer = await answer
            if answer:
                return
            await asyncio.sleep(0.005)


def process_exists(pid: int) -> bool:
    """Tell whether a process lives and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
