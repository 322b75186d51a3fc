"""Connections to Redis that never hang, and one jittered gate through which they come back.

redis-py's own defaults retry for a minute and time out blocking reads; ours fail at once and
leave the retrying to those who know what is at stake.
"""

import asyncio
import random
import uuid
from collections.abc import Callable
from typing import Any

import redis.asyncio
import redis.asyncio.client
import structlog
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel, SentinelConnectionPool
from redis.backoff import NoBackoff

from esper_async.oona.address import SentinelAddress, sentinel_address, without_password
from esper_async.oona.presence import Presence
from esper_async.oona.streams import EPOCH_KEY

_LOG = structlog.get_logger(__name__)


class Client(redis.asyncio.Redis):
    """A client whose every command ends within `timeout_s`, by a time-out of our own.

    redis-py's `socket_timeout` would send through `asyncio.wait_for`, which before Python 3.12
    can swallow a cancellation; a task that talks to Redis could then not be ended.
    """

    timeout_s: float | None = None
    sentinels: tuple[redis.asyncio.Redis, ...] = ()
    """Clients to the Sentinels that are asked where the server is; closed along with this one."""

    async def aclose(self, close_connection_pool: bool | None = None) -> None:
        """Close the connections. Idempotent."""
        await super().aclose(close_connection_pool)
        for sentinel in self.sentinels:
            await sentinel.aclose()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        """Run one command. Raises TimeoutError, and closes the connection, when it takes long."""
        async with asyncio.timeout(self.timeout_s):
            return await super().execute_command(*args, **options)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> "Pipeline":
        """Return a pipeline that is bounded in the same way as a whole."""
        made = Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)
        made.timeout_s = self.timeout_s
        return made


class Pipeline(redis.asyncio.client.Pipeline):
    """Commands sent together."""

    timeout_s: float | None = None

    async def execute(self, raise_on_error: bool = True) -> list[Any]:
        """Run the commands. Raises TimeoutError when they take long."""
        async with asyncio.timeout(self.timeout_s):
            return await super().execute(raise_on_error)


def connect(url: str, *, timeout_s: float) -> Client:
    """Return a pooled client for short commands."""
    return _client(url, timeout_s)


def connect_once(url: str, *, timeout_s: float) -> Client:
    """Return a client over a single connection, for a few commands in one task."""
    return _client(url, timeout_s, single=True)


def _client(url: str, timeout_s: float, *, single: bool = False) -> Client:
    options: dict[str, Any] = {
        "protocol": 2,
        "driver_info": None,
        "socket_timeout": None,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    try:
        behind = sentinel_address(url)
        if behind is not None:
            made = _behind_sentinels(behind, options, timeout_s, single=single)
        else:
            client: Any = Client.from_url(url, single_connection_client=single, **options)
            made = client  # typed by redis-py as its own class
    except ValueError as error:
        raise _no_address(url, error) from None
    made.timeout_s = timeout_s
    return made


def _no_address(url: str, error: ValueError) -> ValueError:
    """Say that a URL is wrong; what redis-py and urllib say may hold a part of its password."""
    why = f": {error}" if "@" not in url else ""
    return ValueError(
        f"oona.redis_url ({without_password(url)}) is no address of a Redis{why}; in a password "
        "write / as %2F, @ as %40, and so on"
    )


def _behind_sentinels(
    address: SentinelAddress, options: dict[str, Any], timeout_s: float, *, single: bool
) -> Client:
    """Return a client that asks the Sentinels for the present server whenever it connects."""
    asking = address.sentinel_options | {"socket_timeout": timeout_s, "protocol": 2}
    sentinel = Sentinel(list(address.sentinels), sentinel_kwargs=asking)  # type: ignore[no-untyped-call]
    pool = SentinelConnectionPool(  # type: ignore[no-untyped-call]
        address.name, sentinel, **options, **address.server_options
    )
    client = Client(connection_pool=pool, single_connection_client=single)
    client.auto_close_connection_pool = True
    client.sentinels = tuple(sentinel.sentinels)
    return client


class ReconnectGate:
    """Spreads reconnects: exponential back-off with full jitter, up to `cap_s` a pause.

    While `presence` says that the server is gone it is not asked at all, for up to `cap_s` a pause.
    """

    def __init__(
        self,
        role: str,
        *,
        cap_s: float,
        base_s: float = 0.05,
        presence: Presence | None = None,
        uniform: Callable[[float, float], float] = random.uniform,
    ) -> None:
        self._role = role
        self._cap_s = cap_s
        self._base_s = base_s
        self._presence = presence
        self._uniform = uniform
        self._failures = 0

    async def pause(self, error: BaseException) -> None:
        """Wait after a failure, longer after each; the first of a row is logged."""
        if not self._failures:
            _LOG.warning("redis_away", role=self._role, error=str(error) or repr(error))
        ceiling = min(self._cap_s, self._base_s * 2**self._failures)
        self._failures = min(self._failures + 1, 16)
        if self._presence is not None and not await self._presence.wait(self._cap_s):
            return
        await asyncio.sleep(self._uniform(0.0, ceiling))

    def passed(self) -> None:
        """Forget earlier failures: a call succeeded."""
        if self._failures:
            _LOG.info("redis_is_back", role=self._role)
        self._failures = 0


async def watch_identity(client: Client, pipeline: Pipeline) -> str:
    """Name the data that answers, and have `pipeline` run only if it is still the same then.

    Another name means that acknowledged writes may be gone: a restart or failover changes the
    server's run id (the last second of its file may be lost), emptying it changes the epoch key.
    """
    await pipeline.watch(EPOCH_KEY)
    epoch: Any = await pipeline.get(EPOCH_KEY)
    while epoch is None:
        await pipeline.reset()  # type: ignore[no-untyped-call]
        await client.set(EPOCH_KEY, uuid.uuid4().hex, nx=True)
        await pipeline.watch(EPOCH_KEY)
        epoch = await pipeline.get(EPOCH_KEY)
    information: Any = await pipeline.info("server")
    pipeline.multi()  # type: ignore[no-untyped-call]
    return _name(information, epoch)


async def identity(client: Client) -> str:
    """Name the data that answers now, as `watch_identity` does; one that was emptied has none yet.

    No name ever comes again, so that what is found in between two equal ones is of the same data.
    """
    async with client.pipeline(transaction=False) as pipeline:
        pipeline.get(EPOCH_KEY)
        pipeline.info("server")
        epoch, information = await pipeline.execute()
    return _name(information, epoch or b"")


def _name(information: Any, epoch: bytes) -> str:
    return f"{information['run_id']}/{epoch.decode()}"
