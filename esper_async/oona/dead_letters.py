"""Messages that could not be handled: list them, look at one, send it again, or throw it away.

Forged ones lie on a stream of their own, so that a flood of them costs no others their place; their
ids begin with `forged-`. Here the two are one list.
"""

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from esper_async.oona.connection import Client
from esper_async.oona.streams import (
    DEAD_LETTERS,
    FORGED_LETTERS,
    WIRE_FIELD,
    EntryId,
    parse_id,
)

_PREFIXES = {DEAD_LETTERS: "", FORGED_LETTERS: "forged-"}
_PAGE = 100
_ORDER = {stream: number for number, stream in enumerate(_PREFIXES)}


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


_Letters = list[DeadLetter]  # the class below has a `list` of its own


class DeadLetters:
    """The dead letters of one bus, oldest first."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def list(self, *, limit: int = 100, after: str = "-", topic: str = "") -> _Letters:
        """Return up to `limit` letters, of `topic` if one is named, behind the id `after`."""
        size = max(limit, _PAGE) if topic else limit
        found: _Letters = []
        while len(found) < limit:
            page = await self._merged(after, size)
            found += [letter for letter in page if topic in ("", letter.topic)]
            if len(page) < size:
                break
            after = page[-1].letter_id
        return found[:limit]

    async def show(self, letter_id: str) -> DeadLetter:
        """Return one letter. Raises KeyError when there is none of this id."""
        stream, entry_id = _place(letter_id)
        rows: Any = await self._client.xrange(stream, min=entry_id, max=entry_id)
        if not rows:
            raise KeyError(letter_id)
        return _letter(stream, *rows[0])

    async def replay(self, letter_id: str) -> None:
        """Put the message back on its stream, unchanged, and remove the letter, both or neither.

        Every group of the topic sees it again; their effects are recorded under its event id.
        Raises KeyError when there is no such letter.
        """
        await self._replay([await self.show(letter_id)])

    async def replay_all(self, *, topic: str = "") -> int:
        """Replay every letter, of `topic` if one is named; return how many.

        Those that are there when it begins: what dies again meanwhile stays.
        """
        replayed = 0
        async for page in self._pages(topic):
            await self._replay(page)
            replayed += len(page)
        return replayed

    async def purge(self, *letter_ids: str) -> int:
        """Throw these letters away; return how many there were."""
        places = [_place(each) for each in letter_ids]
        purged = 0
        for stream in _PREFIXES:
            if entry_ids := [entry_id for lies_on, entry_id in places if lies_on == stream]:
                purged += int(await self._client.xdel(stream, *entry_ids))
        return purged

    async def purge_all(self, *, topic: str = "") -> int:
        """Throw every letter away, of `topic` if one is named; return how many there were."""
        purged = 0
        async for page in self._pages(topic):
            purged += await self.purge(*[letter.letter_id for letter in page])
        return purged

    async def count(self) -> int:
        """Return how many letters there are."""
        return sum([int(await self._client.xlen(stream)) for stream in _PREFIXES])

    async def _merged(self, after: str, limit: int) -> _Letters:
        """Return the next letters of both streams, oldest first."""
        found: list[tuple[EntryId, int, DeadLetter]] = []
        for stream, order in _ORDER.items():
            start = "-" if after == "-" else _behind(after, order)
            rows: Any = await self._client.xrange(stream, min=start, count=limit)
            found += [(parse_id(row[0]), order, _letter(stream, *row)) for row in rows]
        return [letter for *_, letter in sorted(found, key=lambda each: each[:2])[:limit]]

    async def _pages(self, topic: str) -> AsyncIterator[_Letters]:
        """Yield the letters that are there now, some at a time, stream by stream."""
        for stream in _PREFIXES:
            newest: Any = await self._client.xrevrange(stream, count=1)
            start = "-"
            while newest:
                rows: Any = await self._client.xrange(
                    stream, min=start, max=newest[0][0], count=_PAGE
                )
                letters = [_letter(stream, *row) for row in rows]
                if page := [letter for letter in letters if topic in ("", letter.topic)]:
                    yield page
                if len(rows) < _PAGE:
                    break
                start = f"({rows[-1][0].decode()}"

    async def _replay(self, letters: _Letters) -> None:
        async with self._client.pipeline(transaction=True) as pipeline:
            for letter in letters:
                pipeline.xadd(letter.stream, {WIRE_FIELD: letter.wire})
                pipeline.xdel(*_place(letter.letter_id))
            await pipeline.execute()


def _place(letter_id: str) -> tuple[str, str]:
    """Return the stream and the entry that a letter's id means."""
    forged = letter_id.startswith(_PREFIXES[FORGED_LETTERS])
    stream = FORGED_LETTERS if forged else DEAD_LETTERS
    return stream, letter_id.removeprefix(_PREFIXES[stream])


def _behind(letter_id: str, order: int) -> str:
    """Return where the stream of this order goes on behind a letter, perhaps of another stream."""
    stream, entry_id = _place(letter_id)
    return entry_id if order > _ORDER[stream] else f"({entry_id}"


def _letter(stream: str, entry_id: bytes, fields: dict[bytes, bytes]) -> DeadLetter:
    return DeadLetter(
        letter_id=f"{_PREFIXES[stream]}{entry_id.decode()}",
        topic=fields[b"topic"].decode(),
        stream=fields[b"stream"].decode(),
        group=fields[b"group"].decode(),
        entry_id=fields[b"entry_id"].decode(),
        reason=fields[b"reason"].decode(),
        attempts=int(fields[b"attempts"]),
        died_at=float(fields[b"died_at"]),
        wire=fields[WIRE_FIELD],
    )
