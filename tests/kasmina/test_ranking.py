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

    def __init__(self, mean: float | None, birth: float | None = 1.0) -> None:
        self.clean_contribution = None if mean is None else Quantity(mean, mean, mean, 9, "sample")
        self.gradients = type("Record", (), {})()
        self.gradients.birth_norm = None if birth is None else torch.tensor(birth)


def ranked(*entries: Entry) -> list[int]:
    order: list[Any] = rank(list(entries))  # type: ignore[arg-type]
    return [entries.index(entry) for entry in order]


def test_the_better_contribution_comes_first_and_ties_keep_their_order() -> None:
    assert ranked(Entry(0.1), Entry(0.3), Entry(0.1)) == [1, 0, 2]


def test_the_gradient_at_birth_weighs_less_than_the_contribution() -> None:
    assert ranked(Entry(0.1, 100.0), Entry(0.1, 1.0)) == [0, 1]
    assert ranked(Entry(0.1, 100.0), Entry(0.3, 1.0)) == [1, 0]


def test_what_was_not_measured_or_is_not_finite_comes_last() -> None:
    assert ranked(Entry(None), Entry(math.nan), Entry(-5.0))[0] == 2
    assert ranked(Entry(0.1, math.nan), Entry(0.0, 1.0))[0] == 1


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
