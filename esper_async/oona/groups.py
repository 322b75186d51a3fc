"""Consumer groups as the bus sees them: where they stand, and what may be trimmed below them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from redis.exceptions import ResponseError

from esper_async.oona.connection import Client
from esper_async.oona.streams import EntryId, after, format_id, parse_id


@dataclass(frozen=True, slots=True)
class GroupState:
    """Where a group stands on a stream; `floor` is the smallest id it has not acknowledged."""

    name: str
    last_delivered: EntryId
    pending: int
    lag: int
    floor: EntryId

    @property
    def depth(self) -> int:
        """How many entries it has still to acknowledge."""
        return self.pending + self.lag

    def acknowledged(self, entry_id: EntryId) -> bool:
        """Tell whether this entry, known to have been on the stream, is done with for the group."""
        return entry_id < self.floor


async def ensure_groups(
    client: Client, stream: str, groups: Iterable[str], *, at: str = "0"
) -> None:
    """Create the stream and the groups that do not exist yet; by default they read all of it."""
    for group in groups:
        try:
            await client.xgroup_create(stream, group, id=at, mkstream=True)
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise


async def group_states(client: Client, stream: str, *, lag_limit: int) -> dict[str, GroupState]:
    """Return the groups of a stream by name; none if there is no stream.

    Servers before 7.0 do not tell the lag; it is counted, up to `lag_limit`.
    """
    return (await group_states_of(client, [stream], lag_limit=lag_limit))[stream]


async def group_states_of(
    client: Client, streams: Sequence[str], *, lag_limit: int
) -> dict[str, dict[str, GroupState]]:
    """Return the same of several streams, which are asked about together."""
    async with client.pipeline(transaction=False) as pipeline:
        for stream in streams:
            pipeline.xinfo_groups(stream)
        answers = await pipeline.execute(raise_on_error=False)
    return {
        stream: await _states(client, stream, answer, lag_limit=lag_limit)
        for stream, answer in zip(streams, answers, strict=True)
    }


async def _states(
    client: Client, stream: str, rows: Any, *, lag_limit: int
) -> dict[str, GroupState]:
    if isinstance(rows, ResponseError) and "no such key" in str(rows):
        return {}
    if isinstance(rows, Exception):
        raise rows
    states = {}
    for row in rows:
        name = row["name"].decode()
        delivered = parse_id(row["last-delivered-id"])
        floor = after(delivered)
        if row["pending"]:
            oldest: Any = await client.xpending_range(stream, name, min="-", max="+", count=1)
            floor = parse_id(oldest[0]["message_id"]) if oldest else floor
        lag = row.get("lag")
        if lag is None:
            unread: Any = await client.xrange(stream, f"({format_id(delivered)}", count=lag_limit)
            lag = len(unread)
        states[name] = GroupState(name, delivered, int(row["pending"]), int(lag), floor)
    return states
