"""Puts wrapped messages on their streams over one line, which is opened when it is needed."""

import asyncio
from collections.abc import Sequence

from redis.exceptions import ResponseError

from esper_async.leyline.registry import TOPICS
from esper_async.oona.connection import Client
from esper_async.oona.errors import FAULTS
from esper_async.oona.groups import ensure_groups
from esper_async.oona.line import Line, open_line
from esper_async.oona.outbox import Parcel
from esper_async.oona.resp import pack_add
from esper_async.oona.settings import BusSettings


class Publisher:
    """One producer's line to Redis. `add` may be called by many tasks at once."""

    def __init__(self, url: str, client: Client, *, settings: BusSettings) -> None:
        self._url = url
        self._client = client
        self._settings = settings
        self._line: Line | None = None
        self._opening = asyncio.Lock()
        self._prepared: set[str] = set()

    async def add(self, parcels: Sequence[Parcel]) -> None:
        """Publish the parcels together, in order; all are on their streams when this returns.

        Raises one of FAULTS when that is not certain; some may have been taken then.
        """
        try:
            for stream, topic in {(parcel.stream, parcel.topic) for parcel in parcels}:
                if stream not in self._prepared:
                    await ensure_groups(self._client, stream, TOPICS[topic].required_groups)
                    self._prepared.add(stream)
            line = self._line if self._line is not None and self._line.is_open else None
            line = line or await self._open()
            await line.call(
                *[pack_add(parcel.stream, parcel.wire) for parcel in parcels],
                timeout_s=self._settings.command_timeout_s,
            )
        except FAULTS as error:
            self._prepared.clear()  # the groups may be gone with the server's data
            if isinstance(error, ResponseError):
                await (
                    self.aclose()
                )  # READONLY, say: the server was demoted, another is to be sought
            raise

    async def aclose(self) -> None:
        """Close the line. Idempotent."""
        line, self._line = self._line, None
        if line is not None:
            await line.aclose()

    async def _open(self) -> Line:
        """Open the line once for all who wait for it."""
        async with self._opening:
            if self._line is None or not self._line.is_open:
                await self.aclose()
                self._line = await open_line(
                    self._url,
                    timeout_s=self._settings.command_timeout_s,
                    linger_s=self._settings.linger_s,
                )
            return self._line
