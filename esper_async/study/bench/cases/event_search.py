"""How fast is a search among very many events? Words common and rare, with and without filters.

Events are made of words whose frequencies fall off as in a language, so that some queries match
half of all events and others one. A million in the full form; the short one is small.
"""

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from esper_async.nissa.event_store import LEVELS, Event, EventStore, Query
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    shown,
)

MOST_MS = 100.0
_EVENTS = {Effort.SHORT: 40_000, Effort.FULL: 1_000_000}
_SEARCHES = {Effort.SHORT: 40, Effort.FULL: 400}
_BATCH = 5_000
_SEARCHED = "a search, 95th percentile"
_WORDS = [f"word{number}" for number in range(3_000)]


def measure(effort: Effort) -> list[Row]:
    """Fill a store and search it."""
    source = random.Random(7)  # noqa: S311 - reproducible words, no secret
    with tempfile.TemporaryDirectory(prefix="esper-events-") as folder:
        store = EventStore(Path(folder) / "events.sqlite", capacity=2 * _BATCH)
        store.open()
        count = _EVENTS[effort]
        started = time.monotonic()
        _fill(store, count, source)
        filled_s = time.monotonic() - started
        times_ms = sorted(_search(store, query) for query in _queries(source, _SEARCHES[effort]))
        size_mb = (Path(folder) / "events.sqlite").stat().st_size / 2**20
        store.close()
    return [
        judged(
            _SEARCHED, times_ms[int(0.95 * (len(times_ms) - 1))], "ms", Bar("at most", MOST_MS),
            note=f"{count} events, {len(times_ms)} searches, slowest {times_ms[-1]:.1f} ms",
        ),
        shown("events written a second", count / filled_s, "1/s", note=f"{size_mb:.0f} MiB"),
    ]  # fmt: skip


def _fill(store: EventStore, count: int, source: random.Random) -> None:
    for start in range(0, count, _BATCH):
        for number in range(start, min(count, start + _BATCH)):
            words = " ".join(_word(source) for _ in range(8))
            store.add(
                Event(
                    f"e{number}", 1.7e9 + number, LEVELS[min(3, int(source.expovariate(2)))],
                    f"source{number % 9}", f"name.{number % 40}", words, f"run{number % 50}",
                )
            )  # fmt: skip
        store.flush()


def _word(source: random.Random) -> str:
    return _WORDS[min(len(_WORDS) - 1, int(source.paretovariate(0.6)) - 1)]


def _queries(source: random.Random, count: int) -> list[Query]:
    makers: list[Callable[[], Query]] = [
        Query,
        lambda: Query(words=_word(source)),
        lambda: Query(words=source.choice(_WORDS)),
        lambda: Query(words=f"{_word(source)} {_word(source)}"),
        lambda: Query(words=source.choice(_WORDS)[:5]),
        lambda: Query(level="error"),
        lambda: Query(level="critical", source=f"source{source.randrange(9)}"),
        lambda: Query(words=_word(source), level="error"),
        lambda: Query(words=f"run{source.randrange(50)}", source=f"source{source.randrange(9)}"),
        lambda: Query(words="nothing has this"),
    ]
    return [makers[number % len(makers)]() for number in range(count)]


def _search(store: EventStore, query: Query) -> float:
    started = time.perf_counter()
    store.search(query)
    return (time.perf_counter() - started) * 1e3


_whole_search = EventStore.search


def _reads_everything(store: EventStore, query: Query) -> list[dict[str, Any]]:
    everything = _whole_search(store, Query(limit=10_000_000))
    wanted = query.words.split()
    return [each for each in everything if all(word in str(each) for word in wanted)][:100]


BENCHMARK = Benchmark(
    name="event-search",
    question="how fast is a search among very many events?",
    measure=measure,
    mutants=(
        Mutant(
            "a search without its index",
            "every event is read and its words are looked for one by one",
            lambda: replaced("esper_async.nissa.event_store.EventStore.search", _reads_everything),
            fails=(_SEARCHED,),
        ),
    ),
)
