"""Events on disk: found by their words, kept for their time, dropped only when counted."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_async.nissa.event_store import Event, EventStore, Query
from esper_async.runtime.clock import FakeClock


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(tmp_path: Path, clock: FakeClock) -> Iterator[EventStore]:
    store = EventStore(tmp_path / "nissa" / "events.sqlite", clock=clock, capacity=50)
    store.open()
    yield store
    store.close()


def event(number: int, message: str = "the loss is not finite", **more: object) -> Event:
    told: dict[str, object] = {"level": "info", "source": "tolaria", "name": "run.rollback", **more}
    return Event(uid=f"e{number}", time=1_700_000_000.0 + number, message=message, **told)  # type: ignore[arg-type]


def found(store: EventStore, **query: object) -> list[str]:
    store.flush()
    return [row["message"] for row in store.search(Query(**query))]  # type: ignore[arg-type]


def test_a_search_finds_every_word_by_its_beginning_newest_first(store: EventStore) -> None:
    for number, text in enumerate(["seed culled", "seed kept at block.1", "breaker opened"]):
        store.add(event(number, text))
    assert found(store, words="se") == ["seed kept at block.1", "seed culled"]
    assert found(store, words="kept seed") == ["seed kept at block.1"]
    assert found(store, words="nothing") == []
    assert len(found(store)) == 3


def test_fields_are_searched_and_come_back_whole(store: EventStore) -> None:
    store.add(event(1, fields={"gate": "G4", "numbers": {"low": -0.002}}))
    store.flush()
    [row] = store.search(Query(words="G4"))
    assert row["fields"] == {"gate": "G4", "numbers": {"low": -0.002}}


def test_level_source_and_time_narrow_a_search(store: EventStore) -> None:
    store.add(event(1, "a", level="warning"))
    store.add(event(2, "b", level="critical", source="oona"))
    store.add(event(3, "c"))
    assert found(store, level="warning") == ["b", "a"]
    assert found(store, source="oona") == ["b"]
    assert found(store, since=1_700_000_002.5) == ["c"]


def test_pages_continue_below_the_last_id(store: EventStore) -> None:
    for number in range(5):
        store.add(event(number, f"event{number}"))
    store.flush()
    first = store.search(Query(limit=2))
    rest = store.search(Query(limit=9, before=first[-1]["id"], words="event"))
    assert [row["message"] for row in first + rest] == [f"event{n}" for n in (4, 3, 2, 1, 0)]


def test_an_event_delivered_twice_is_kept_once(store: EventStore) -> None:
    store.add(event(1))
    store.add(event(1))
    store.flush()
    assert store.count() == 1


def test_past_its_bound_the_queue_drops_and_counts(store: EventStore) -> None:
    assert [store.add(event(number)) for number in range(51)] == [True] * 50 + [False]
    assert (store.dropped, store.waiting) == (1, 50)


def test_events_past_their_retention_are_deleted_and_no_longer_found(
    store: EventStore, clock: FakeClock
) -> None:
    store.add(event(0, "old"))
    store.add(event(100, "young"))
    store.flush()
    clock.advance(7 * 86_400.0 + 50)
    assert store.prune() == 1
    assert found(store, words="old") == []
    assert found(store) == ["young"]


def test_events_survive_a_restart(tmp_path: Path) -> None:
    path = tmp_path / "events.sqlite"
    first = EventStore(path)
    first.open()
    first.add(event(1, "kept"))
    first.close()
    second = EventStore(path)
    second.open()
    assert [row["message"] for row in second.search(Query(words="kept"))] == ["kept"]
    second.close()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60)
@given(st.text(max_size=40))
def test_nothing_one_can_type_breaks_a_search(store: EventStore, words: str) -> None:
    store.search(Query(words=words))


def test_a_store_of_before_there_was_an_index_of_beginnings_is_searched_as_a_new_one(
    tmp_path: Path,
) -> None:
    import sqlite3

    path = tmp_path / "events.sqlite"
    store = EventStore(path, clock=FakeClock())
    store.open()
    store.add(Event("e1", 1.7e9, "info", "test", "x", "the disk is slow"))
    store.close()
    with sqlite3.connect(path) as database:
        database.executescript(
            "DROP TRIGGER event_in; DROP TRIGGER event_out; DROP TABLE beginnings;"
            "CREATE VIRTUAL TABLE words USING fts5 (message, content='events',"
            " content_rowid='id');"
            "CREATE TRIGGER events_in AFTER INSERT ON events BEGIN"
            " INSERT INTO words (rowid, message) VALUES (new.id, new.message); END;"
        )
    database.close()
    for _ in range(2):
        store.open()
        assert [event["uid"] for event in store.after(0, 10)] == ["e1"]
        assert len(store.search(Query("dis"))) == 1
        store.close()
    store.open()
    store.add(Event("e2", 1.7e9, "error", "test", "x", "the disk is full"))
    store.flush()
    assert len(store.search(Query("disk"))) == 2
    assert len(store.search(Query("disk", level="error"))) == 1
    store.close()
