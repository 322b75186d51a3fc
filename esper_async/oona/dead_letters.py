"""Messages that could not be handled: list them, look at one, send it again, or throw it away."""

import time
from dataclasses import dataclass
from typing import Any

from esper_async.oona.connection import Client
from esper_async.oona.streams import DEAD_LETTERS, WIRE_FIELD


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """One message with the reason why `group` could not handle it. `died_at` is Unix time, s."""

    letter_id: str
    topic: str
    stream: str
    group: str
    entry_id: str
    reason: str
    attempts: int
    died_at: float
    wire: bytes


def dead_letter_fields(
    wire: bytes,
    *,
    topic: str,
    stream: str,
    group: str,
    entry_id: str,
    reason: str,
    attempts: int,
) -> dict[Any, Any]:
    """Return the fields under which a dead letter is kept."""
    return {
        WIRE_FIELD: wire,
        "topic": topic,
        "stream": stream,
        "group": group,
        "entry_id": entry_id,
        "reason": reason[:1_000],
        "attempts": attempts,
        "died_at": time.time(),
    }


class DeadLetters:
    """The dead letters of one bus, oldest first."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def list(self, *, limit: int = 100, after: str = "-") -> "list[DeadLetter]":
        """Return up to `limit` letters behind the id `after`."""
        start = after if after == "-" else f"({after}"
        rows: Any = await self._client.xrange(DEAD_LETTERS, min=start, count=limit)
        return [_letter(*row) for row in rows]

    async def show(self, letter_id: str) -> DeadLetter:
        """Return one letter. Raises KeyError when there is none of this id."""
        rows: Any = await self._client.xrange(DEAD_LETTERS, min=letter_id, max=letter_id)
        if not rows:
            raise KeyError(letter_id)
        return _letter(*rows[0])

    async def replay(self, letter_id: str) -> None:
        """Put the message back on its stream, unchanged, and remove the letter, both or neither.

        Every group of the topic sees it again; their effects are recorded under its event id.
        Raises KeyError when there is no such letter.
        """
        letter = await self.show(letter_id)
        async with self._client.pipeline(transaction=True) as pipeline:
            pipeline.xadd(letter.stream, {WIRE_FIELD: letter.wire})
            pipeline.xdel(DEAD_LETTERS, letter_id)
            await pipeline.execute()

    async def purge(self, *letter_ids: str) -> int:
        """Throw letters away, all of them when none is named; return how many there were."""
        if letter_ids:
            return int(await self._client.xdel(DEAD_LETTERS, *letter_ids))
        return int(await self._client.xtrim(DEAD_LETTERS, maxlen=0, approximate=False))

    async def count(self) -> int:
        """Return how many letters there are."""
        return int(await self._client.xlen(DEAD_LETTERS))


def _letter(letter_id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    return DeadLetter(
        letter_id=letter_id.decode(),
        topic=fields[b"topic"].decode(),
        stream=fields[b"stream"].decode(),
        group=fields[b"group"].decode(),
        entry_id=fields[b"entry_id"].decode(),
        reason=fields[b"reason"].decode(),
        attempts=int(fields[b"attempts"]),
        died_at=float(fields[b"died_at"]),
        wire=fields[WIRE_FIELD],
    )
