"""Ranking candidates, the trend that stands in for a twin, and random streams."""

import math
from typing import Any

import pytest
import torch

from esper_async.kasmina.gates import system_impact
from esper_async.kasmina.quantity import Quantity
from esper_async.kasmina.random_state import RandomStream, fresh_stream
from esper_async.kasmina.tournament import rank
from esper_async.kasmina.trend import LossTrend


class Entry:
    """What ranking reads of a seed."""

    def __init__(
        self, mean: float | None, *, half: float = 0.0, depth: int = 0, parameters: int = 10
    ) -> None:
        self.clean_contribution = (
            None if mean is None else Quantity(mean, mean - half, mean + half, 9, "sample")
        )
        self.site = type("Site", (), {"depth": depth})()
        self.parameter_count = parameters


def ranked(*entries: Entry) -> list[int]:
    order: list[Any] = rank(list(entries))  # type: ignore[arg-type]
    return [entries.index(entry) for entry in order]


def test_the_better_contribution_comes_first_and_ties_keep_their_order() -> None:
    assert ranked(Entry(0.1), Entry(0.3), Entry(0.1)) == [1, 0, 2]
    assert ranked() == []


def test_of_what_is_as_good_as_the_best_the_earliest_and_then_the_largest_comes_first() -> None:
    best = Entry(0.30, half=0.05, depth=1, parameters=10)
    late = Entry(0.22, half=0.05, depth=1, parameters=900)
    early = Entry(0.21, half=0.05, depth=0, parameters=5)
    early_and_large = Entry(0.20, half=0.05, depth=0, parameters=50)
    assert ranked(best, late, early, early_and_large) == [3, 2, 1, 0]


def test_what_is_worse_than_the_best_stays_behind_it_wherever_it_is_and_however_large() -> None:
    best = Entry(0.30, half=0.05, depth=5)
    worse = Entry(0.15, half=0.05, parameters=900)
    worst = Entry(0.14, half=0.05, parameters=9_000)
    assert ranked(worst, worse, best) == [2, 1, 0]


def test_what_was_not_measured_or_is_not_finite_comes_last() -> None:
    assert ranked(Entry(None), Entry(math.nan), Entry(-5.0, half=1.0, depth=9))[0] == 2
    unknown = Entry(0.1, parameters=900)
    unknown.clean_contribution = Quantity(math.nan, -math.inf, math.inf, 0, "sample")
    assert ranked(unknown, Entry(0.0)) == [1, 0]
    assert ranked(Entry(None), Entry(math.nan)) == [0, 1]


def test_a_trend_is_followed_to_where_the_host_would_have_been() -> None:
    trend = LossTrend()
    for boundary in range(6):
        trend.add(2.0 * 0.9**boundary)
    trend.freeze()
    expected = 2.0 * 0.9**9
    found = trend.benefit(expected, boundary=10)

    assert found is not None
    assert found.estimated
    assert found.mean == pytest.approx(0.0, abs=1e-9)
    better = trend.benefit(expected - 0.5, boundary=10)
    assert better is not None
    assert better.mean == pytest.approx(0.5)


def test_a_trend_that_rises_is_not_followed_upwards() -> None:
    trend = LossTrend()
    for loss in (1.0, 1.1, 1.2, 1.3, 1.4):
        trend.add(loss)
    trend.freeze()
    found = trend.benefit(1.2, boundary=20)
    assert found is not None
    assert found.mean == pytest.approx(0.0, abs=0.02)


@pytest.mark.parametrize("losses", [[], [1.0, 0.9], [math.nan, math.inf, 1.0, 0.9]])
def test_without_a_trend_nothing_is_measured_and_the_gate_fails(losses: list[float]) -> None:
    trend = LossTrend()
    for loss in losses:
        trend.add(loss)
    trend.freeze()
    found = trend.benefit(0.1, boundary=len(losses) + 3)
    assert found is None
    assert not system_impact(found, margin=0.005, boundary=1).passed


def test_a_noisy_trend_has_a_wide_interval() -> None:
    trend = LossTrend()
    for loss in (1.0, 0.5, 1.1, 0.4, 1.2):
        trend.add(loss)
    trend.freeze()
    found = trend.benefit(0.6, boundary=9)
    assert found is not None
    assert not system_impact(found, margin=0.005, boundary=1).passed


def test_a_stream_goes_on_where_it_was_and_leaves_the_global_one_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    stream = RandomStream(fresh_stream(0, "a"))
    with stream.active():
        first = torch.rand(3)
    with stream.active():
        second = torch.rand(3)
    whole = RandomStream(fresh_stream(0, "a"))
    with whole.active():
        assert torch.equal(torch.rand(3), first)
        assert torch.equal(torch.rand(3), second)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_stream_restores_the_global_one_when_its_block_raises() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with pytest.raises(KeyError), RandomStream(fresh_stream(0, "a")).active():
        torch.rand(3)
        raise KeyError
    assert torch.equal(torch.get_rng_state(), before)


def test_streams_of_other_parts_are_other_streams() -> None:
    streams = {bytes(fresh_stream(*parts).tolist()) for parts in ((0, "a"), (0, "b"), (1, "a"))}
    assert len(streams) == 3
