"""The metrics' past: what is kept, for how long, and that nothing happening is not not looking."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.nissa.history import HOUR_S, MINUTES_KEPT_S, History
from esper_async.nissa.reading import Reading
from esper_async.runtime.metrics import Registry

START = 1_699_999_200.0  # a whole hour


@pytest.fixture
def history(tmp_path: Path) -> Iterator[History]:
    made = History(tmp_path / "metrics.sqlite")
    made.open()
    yield made
    made.close()


def points(
    history: History, name: str, *, until: float, step_s: int = 60
) -> list[tuple[float, float | None]]:
    _, series = history.range(name, since=START, until=until, step_s=step_s)
    return [(point.time - START, point.value) for each in series for point in each.points]


def test_counters_are_kept_as_increases_and_levels_as_means(history: History) -> None:
    registry = Registry()
    done = registry.counter("oona.published", "text", ["topic"])
    depth = registry.gauge("oona.queue.depth", "text")
    for second, add, level in ((0, 5, 1.0), (30, 2, 3.0), (60, 0, 9.0), (120, 4, 9.0), (180, 0, 1)):
        done.add(add, topic="alerts")
        depth.set(level)
        history.take(Reading.of(registry), START + second)
    assert points(history, "esper_oona_published_total", until=START + 170) == [
        (0, 7.0), (60, 0.0), (120, 4.0),
    ]  # fmt: skip
    assert points(history, "esper_oona_queue_depth", until=START + 170) == [
        (0, 2.0), (60, 9.0), (120, 9.0),
    ]  # fmt: skip
    kind, [series] = history.range(
        "esper_oona_queue_depth", since=START, until=START + 59, step_s=60
    )
    assert (kind, series.points[0].low, series.points[0].high) == ("gauge", 1.0, 3.0)


def test_a_level_that_nobody_looked_at_is_not_measured_and_no_zero(history: History) -> None:
    registry = Registry()
    registry.gauge("oona.queue.depth", "text").set(4.0)
    empty = Registry()
    history.take(Reading.of(registry), START)
    history.take(Reading.of(empty), START + 60)  # looked, and there was none
    history.take(Reading.of(registry), START + 300)  # nobody looked in between
    history.take(Reading.of(registry), START + 360)
    assert points(history, "esper_oona_queue_depth", until=START + 350) == [
        (0, 4.0), (60, None), (300, 4.0),
    ]  # fmt: skip


def test_a_counter_that_began_anew_does_not_go_backwards(history: History) -> None:
    first, second = Registry(), Registry()
    first.counter("oona.published", "text").add(10)
    second.counter("oona.published", "text").add(3)
    history.take(Reading.of(first), START)
    history.take(Reading.of(second), START + 1)
    assert history.increase("esper_oona_published_total", (), START) == 13.0


def test_minutes_go_after_a_day_and_hours_after_the_retention(tmp_path: Path) -> None:
    history = History(tmp_path / "metrics.sqlite", retention_s=3 * 86_400.0)
    history.open()
    registry = Registry()
    done = registry.counter("oona.published", "text")
    last = START + MINUTES_KEPT_S + 2 * HOUR_S
    for at in (START, last, last + 60):
        done.add(1)
        history.take(Reading.of(registry), at)
    assert points(history, "esper_oona_published_total", until=last)[0][0] == last - START
    hours = points(history, "esper_oona_published_total", until=last, step_s=HOUR_S)
    assert [value for _, value in hours] == [1.0, 1.0]
    much_later = START + 5 * 86_400.0
    for at in (much_later, much_later + 60):
        done.add(1)
        history.take(Reading.of(registry), at)
    hours = points(history, "esper_oona_published_total", until=much_later, step_s=HOUR_S)
    assert [value for _, value in hours] == [1.0]
    history.close()


def test_it_is_the_same_after_it_was_closed_and_opened(tmp_path: Path) -> None:
    registry = Registry()
    registry.counter("oona.published", "text", ["topic"]).add(2, topic="alerts")
    first = History(tmp_path / "metrics.sqlite")
    first.open()
    first.take(Reading.of(registry), START)
    first.close()
    second = History(tmp_path / "metrics.sqlite")
    second.open()
    assert second.names() == ["esper_oona_published_total"]
    assert second.increase("esper_oona_published_total", [("topic", "alerts")], START) == 2.0
    second.close()


@settings(deadline=None, max_examples=25)
@given(st.lists(st.tuples(st.integers(1, 200), st.integers(0, 50)), min_size=1, max_size=40))
def test_nothing_is_lost_or_counted_twice(tmp_path_factory, steps):  # type: ignore[no-untyped-def]
    history = History(tmp_path_factory.mktemp("history") / "metrics.sqlite")
    history.open()
    registry = Registry()
    done = registry.counter("oona.published", "text")
    now, total = START, 0
    for pause, count in steps:
        done.add(count)
        total += count
        history.take(Reading.of(registry), now)
        now += pause
    assert history.increase("esper_oona_published_total", (), START) == total
    history.close()
