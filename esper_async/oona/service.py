"""Oona's supervisor side: the server, the janitor, the services' bus, and orphaned spools."""

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path

import structlog

from esper_async.leyline.nonces import NonceStore
from esper_async.leyline.signing import Signer
from esper_async.oona.address import without_password
from esper_async.oona.bus import Bus
from esper_async.oona.connection import ReconnectGate, connect, connect_once
from esper_async.oona.courier import Courier
from esper_async.oona.dead_letters import DeadLetters
from esper_async.oona.errors import FAULTS, BusUnavailable, ServerStartError, SpoolBusy
from esper_async.oona.janitor import Janitor
from esper_async.oona.metrics import BusMetrics
from esper_async.oona.presence import Presence
from esper_async.oona.server import EmbeddedServer
from esper_async.oona.settings import BusSettings
from esper_async.oona.spool import Spool
from esper_async.runtime.breakers import Breakers

_LOG = structlog.get_logger(__name__)
_ADOPT_EVERY_S = 2.0
_ADOPT_FOR_S = 1.0
_RESTART_PAUSE_S = 0.2
_STOP_S = 2.0
"""What the server has answered is in the kernel's hands: one that is killed loses none of it."""
_RESTART_PATIENCE_S = 30.0


class OonaService:
    """Starts Redis (unless `redis_url` names one), keeps it running and keeps it tidy.

    `url`, `bus` and `dead_letters` are there once it is ready. Spools that dead children left
    under `state_dir/runs/*/spool` are carried to the end.
    """

    name = "oona"

    def __init__(
        self,
        state_dir: Path,
        *,
        signer: Signer,
        redis_url: str = "",
        settings: BusSettings | None = None,
        metrics: BusMetrics | None = None,
    ) -> None:
        self._state_dir = state_dir
        self._signer = signer
        self._settings = settings or BusSettings()
        self._metrics = metrics or BusMetrics()
        self.server = None if redis_url else EmbeddedServer(state_dir / "redis")
        self._external_url = redis_url
        self._bus: Bus | None = None
        self._dead_letters: DeadLetters | None = None
        self._restarts = 0
        self._presence = Presence()
        self._janitor: Janitor | None = None

    @property
    def url(self) -> str:
        """The URL of the Redis in use."""
        return self.server.url if self.server is not None else self._external_url

    @property
    def bus(self) -> Bus:
        """The supervisor's own bus. Raises RuntimeError while the service is not ready."""
        if self._bus is None:
            raise RuntimeError("oona is not ready")
        return self._bus

    @property
    def dead_letters(self) -> DeadLetters:
        """The dead letters. Raises RuntimeError while the service is not ready."""
        if self._dead_letters is None:
            raise RuntimeError("oona is not ready")
        return self._dead_letters

    async def run(self, ready: Callable[[], None]) -> None:
        """Serve until cancelled, then close the bus and stop the server.

        Raises ServerStartError or BusUnavailable when Redis does not come up.
        """
        await self._start_redis()
        client = connect(self.url, timeout_s=self._settings.command_timeout_s)
        spool = Spool(self._state_dir / "oona" / "spool")
        nonces = NonceStore(self._state_dir / "oona" / "nonces.sqlite")
        try:
            async with self._new_bus(spool, nonces) as bus, asyncio.TaskGroup() as tasks:
                self._bus = bus
                self._dead_letters = DeadLetters(client)
                self._janitor = Janitor(
                    client,
                    settings=self._settings,
                    metrics=self._metrics,
                    presence=self._presence,
                )
                tasks.create_task(self._janitor.run())
                tasks.create_task(self._adopt_spools())
                if self.server is not None:
                    tasks.create_task(self._keep_server(self.server))
                ready()
        finally:
            self._bus = self._dead_letters = self._janitor = None
            spool.close()
            nonces.close()
            await client.aclose()
            if self.server is not None:
                await self.server.stop(_STOP_S)

    def detail(self) -> dict[str, object]:
        """Return what readiness shows: where Redis is and how often it had to be started again."""
        kind = "external" if self.server is None else "embedded"
        return {
            "redis": kind,
            "pid": self.server.pid if self.server else None,
            "redis_restarts": self._restarts,
            "conservative": [] if self._janitor is None else self._janitor.conservative,
        }

    @property
    def breakers(self) -> Breakers:
        """The breakers of publishing and of each consumer in this process."""
        return self._metrics.breakers

    def _new_bus(self, spool: Spool, nonces: NonceStore) -> Bus:
        return Bus(
            self.url,
            signer=self._signer,
            source="supervisor",
            spool=spool,
            settings=self._settings,
            metrics=self._metrics,
            nonces=nonces,
            presence=self._presence,
        )

    async def _start_redis(self) -> None:
        if self.server is not None:
            await self.server.start()
            self._presence.back()
            return
        client = connect_once(self._external_url, timeout_s=self._settings.command_timeout_s)
        try:
            await client.ping()
        except FAULTS as error:
            raise BusUnavailable(
                f"no Redis answers at oona.redis_url ({without_password(self._external_url)}): "
                f"{error}; start it, mend the URL, or leave it empty to use the embedded server"
            ) from error
        finally:
            await client.aclose()

    async def _keep_server(self, server: EmbeddedServer) -> None:
        """Start the embedded server again whenever it ends; its file has its data.

        Whoever uses it from this process waits in between, and is told at once: to ask a server
        that is gone opens breakers, and then it is not asked for a while although it is back.

        Raises ServerStartError when it has not come up for a while: all that needs the bus ends
        then, runs included, which is why one failed start is not enough.
        """
        while True:
            code = await server.wait()
            self._presence.gone()
            self._restarts += 1
            _LOG.error("embedded_redis_ended", code=code, restarts=self._restarts)
            await self._start_again(server)
            self.breakers.reconsider()
            self._presence.back()

    async def _start_again(self, server: EmbeddedServer) -> None:
        loop = asyncio.get_running_loop()
        give_up = loop.time() + _RESTART_PATIENCE_S
        gate = ReconnectGate("embedded server", cap_s=self._settings.reconnect_cap_s)
        await asyncio.sleep(_RESTART_PAUSE_S)
        while True:
            try:
                await server.start()
            except ServerStartError as error:
                if loop.time() >= give_up:
                    raise
                await gate.pause(error)
            else:
                gate.passed()
                return

    async def _adopt_spools(self) -> None:
        """Carry what dead children left, in short turns, so that a resumed run gets its spool."""
        while True:
            for path in sorted(self._state_dir.glob("runs/*/spool/spool.sqlite")):
                try:
                    await self._adopt(path.parent)
                except (OSError, sqlite3.Error) as error:  # a full disk: it waits where it is
                    _LOG.warning("spool_not_adopted", directory=str(path.parent), error=str(error))
            await asyncio.sleep(_ADOPT_EVERY_S)

    async def _adopt(self, directory: Path) -> None:
        try:
            spool = await _opened(directory)
        except SpoolBusy:
            return  # its child lives
        try:
            if len(spool):
                _LOG.info("spool_adopted", messages=len(spool), directory=str(directory))
                courier = Courier(
                    self.url,
                    spool,
                    source=f"left by {directory.parent.name}",
                    settings=self._settings,
                    metrics=self._metrics,
                )
                async with asyncio.timeout(_ADOPT_FOR_S):
                    await courier.run()
        except TimeoutError:
            return
        finally:
            spool.close()


async def _opened(directory: Path) -> Spool:
    """Open a spool in a thread; one that opens after a cancellation is closed again."""
    opening = asyncio.ensure_future(asyncio.to_thread(Spool, directory, patience_s=0.0))
    try:
        return await asyncio.shield(opening)
    except asyncio.CancelledError:
        with contextlib.suppress(SpoolBusy, OSError, sqlite3.Error):
            (await opening).close()
        raise
