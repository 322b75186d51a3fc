"""The catalogue's columns in memory, as arrays: what a query looks through before it reads rows.

One hundred thousand assets take about 8 MB. Rows are added as they appear behind the highest number
seen; one that has gone is noticed when it is read. An answer is always read and verified anew: what
is here only says where to look.
"""

import sqlite3
from array import array
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper_async.urza import rows
from esper_async.urza.query import Query
from esper_async.urza.records import SERVED, Asset

_TEXTS = ("kind", "blueprint", "interface", "lifecycle", "tier")
_NUMBERS = ("stage", "risk", "parameters", "flops", "latency_ms")
_CHUNK = 2_000
_FEW = 8  # below one row in so many, only those that are left are looked at
_FIRST_CAPACITY = 1_024

Mask = NDArray[np.bool_]
Test = Callable[[NDArray[Any]], Mask]


class Columns:
    """For one thread at a time, of the catalogue file that was opened as number `opening`."""

    def __init__(self, opening: int) -> None:
        self.opening = opening
        self._seen = self._count = self._first_count = 0
        self._seqs = np.zeros(_FIRST_CAPACITY, dtype=np.int64)
        self._alive: Mask = np.zeros(_FIRST_CAPACITY, dtype=np.bool_)
        self._codes: dict[str, dict[str, int]] = {name: {} for name in _TEXTS}
        self._tagged: dict[str, array[int]] = {}
        self._texts = {name: np.zeros(_FIRST_CAPACITY, dtype=np.int32) for name in _TEXTS}
        self._numbers = {name: np.zeros(_FIRST_CAPACITY) for name in _NUMBERS}

    @property
    def mostly_replaced(self) -> bool:
        """Whether most of what is here is about rows that have gone: time to begin anew."""
        first = self._first_count
        return first > 0 and self._count > 2 * first + _FIRST_CAPACITY

    def refresh(self, connection: sqlite3.Connection, check_time: Callable[[], None]) -> None:
        """Take in the rows that are new since the last time.

        `check_time` is called between chunks and may raise: what was taken in is kept. Raises
        DamagedRecordError.
        """
        while True:
            found = rows.behind(connection, self._seen, _CHUNK)
            for seq, asset in found:
                self._add(seq, asset)
            if len(found) < _CHUNK:
                break
            check_time()
        if self._first_count == 0:
            self._first_count = self._count

    def newest(self, connection: sqlite3.Connection, query: Query, limit: int) -> list[Asset]:
        """The verified assets that `query` admits, newest first. Raises DamagedRecordError."""
        places = self._matching(query)[::-1]
        assets: list[Asset] = []
        start = 0
        while start < len(places) and len(assets) < limit:
            some = places[start : start + min(limit - len(assets), _CHUNK)]
            start += len(some)
            numbers = [int(seq) for seq in self._seqs[some]]
            present = rows.at(connection, numbers)
            for place, seq in zip(some, numbers, strict=True):
                if seq not in present:
                    self._alive[place] = False
                elif query.admits(present[seq]):
                    assets.append(present[seq])
        return assets

    def _matching(self, query: Query) -> NDArray[np.intp]:
        """The places of the rows that seem to fit, oldest first."""
        count = self._count
        mask = self._alive[:count]
        places: NDArray[np.intp] | None = None
        for column, test in self._tests(query):
            if places is not None:
                places = places[test(column[places])]
                continue
            mask = mask & test(column[:count])
            if np.count_nonzero(mask) * _FEW < count:
                places = np.flatnonzero(mask)
        if query.tag is not None:
            tagged = np.zeros(count, dtype=np.bool_)
            if query.tag in self._tagged:
                tagged[np.frombuffer(self._tagged[query.tag], dtype=np.int64)] = True
            if places is not None:
                return places[tagged[places]]
            mask = mask & tagged
        return np.flatnonzero(mask) if places is None else places

    def _tests(self, query: Query) -> Iterator[tuple[NDArray[Any], Test]]:
        for name, value in query.texts():
            yield self._texts[name], _among([self._codes[name].get(value, -1)])
        if query.in_force:
            codes = self._codes["lifecycle"]
            yield self._texts["lifecycle"], _among([codes.get(str(each), -1) for each in SERVED])
        if query.stage is not None:
            yield self._numbers["stage"], _among([query.stage])
        for name, most in query.budgets():
            yield self._numbers[name], _at_most(most)

    def _add(self, seq: int, asset: Asset) -> None:
        place = self._count
        if place == len(self._seqs):
            self._grow()
        self._seqs[place] = seq
        self._alive[place] = True
        for name in _TEXTS:
            codes = self._codes[name]
            value = str(getattr(asset, name))
            self._texts[name][place] = codes.setdefault(value, len(codes))
        for name in _NUMBERS:
            number = getattr(asset, name)
            self._numbers[name][place] = np.nan if number is None else number
        for tag in asset.tags:
            self._tagged.setdefault(tag, array("q")).append(place)
        self._count += 1
        self._seen = seq

    def _grow(self) -> None:
        more = len(self._seqs)
        self._seqs = np.pad(self._seqs, (0, more))
        self._alive = np.pad(self._alive, (0, more))
        for columns in (self._texts, self._numbers):
            for name, column in columns.items():
                columns[name] = np.pad(column, (0, more))


def _among(codes: Sequence[int]) -> Test:
    def test(part: NDArray[Any]) -> Mask:
        found: Mask = part == codes[0]
        for code in codes[1:]:
            found |= part == code
        return found

    return test


def _at_most(most: float) -> Test:
    def test(part: NDArray[Any]) -> Mask:
        found: Mask = part <= most
        return found

    return test
