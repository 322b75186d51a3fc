"""Advantages and targets are those of the papers: by their definitions, by hand, by `torchrl`.

The numbers of `torchrl` 0.10.1 stand here as it gave them, each trajectory by itself: it cannot be
installed beside what Esper's other tests need.
"""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from esper_async.simic.gae import gae
from esper_async.simic.returns import Returns
from esper_async.simic.vtrace import vtrace

REWARDS = torch.tensor([1.0, -0.5, 2.0, 0.25])
VALUES = torch.tensor([0.5, 1.0, -0.25, 0.75])
LOG_RATIOS = torch.tensor([0.3, -0.7, 0.1, -0.2])
CUT_OFF = -1.5
"""The value of the state in which an episode was cut off."""
numbers = st.floats(-3.0, 3.0, width=32)
steps = st.lists(
    st.tuples(numbers, numbers, st.floats(-1.0, 1.0, width=32)), min_size=1, max_size=9
)


def approx(values: list[float]) -> object:
    return pytest.approx(values, abs=2e-5, rel=1e-4)


def told(found: Returns) -> tuple[list[float], list[float]]:
    return found.advantages.tolist(), found.targets.tolist()


@pytest.mark.parametrize(
    ("last_value", "advantages", "targets"),
    [
        (0.0, [1.487696, 0.1218, 2.565, -0.5], [1.987696, 1.1218, 2.315, 0.25]),
        (CUT_OFF, [0.983811, -0.57804, 1.593, -1.85], [1.483811, 0.42196, 1.343, -1.1]),
    ],
)
def test_gae_is_that_of_torchrl_ended_or_cut_off(
    last_value: float, advantages: list[float], targets: list[float]
):
    found = gae(REWARDS, VALUES, last_value, discount=0.9, decay=0.8)
    assert told(found) == (approx(advantages), approx(targets))


@pytest.mark.parametrize(
    ("last_value", "advantages", "targets"),
    [
        (
            0.0,
            [1.657392, 0.28599, 2.556571, -0.409365],
            [2.157391, 1.28599, 2.306571, 0.340635],
        ),
        (
            CUT_OFF,
            [1.257266, -0.158594, 1.561813, -1.514652],
            [1.757266, 0.841407, 1.311813, -0.764652],
        ),
    ],
)
def test_v_trace_is_that_of_torchrl_ended_or_cut_off(
    last_value: float, advantages: list[float], targets: list[float]
):
    found = vtrace(LOG_RATIOS, REWARDS, VALUES, last_value, discount=0.9)
    assert told(found) == (approx(advantages), approx(targets))


@given(steps, numbers, st.floats(0.0, 1.0))
def test_gae_is_its_sum_written_out(
    drawn: list[tuple[float, float, float]], last_value: float, decay: float
):
    rewards, values = [each[0] for each in drawn], [each[1] for each in drawn]
    after = [*values[1:], last_value]
    errors = [r + 0.9 * n - v for r, n, v in zip(rewards, after, values, strict=True)]
    expected = [
        math.fsum((0.9 * decay) ** (k - t) * errors[k] for k in range(t, len(errors)))
        for t in range(len(errors))
    ]
    found = gae(torch.tensor(rewards), torch.tensor(values), last_value, discount=0.9, decay=decay)
    assert found.advantages.tolist() == approx(expected)
    assert found.targets.tolist() == approx([a + v for a, v in zip(expected, values, strict=True)])


@given(steps, numbers, st.sampled_from([(1.0, 1.0), (2.0, 1.0), (0.5, 0.25)]))
def test_v_trace_is_its_sum_written_out(
    drawn: list[tuple[float, float, float]], last_value: float, bars: tuple[float, float]
):
    rewards, values = [each[0] for each in drawn], [each[1] for each in drawn]
    ratios = [math.exp(each[2]) for each in drawn]
    rho, c = ([min(bar, ratio) for ratio in ratios] for bar in bars)
    after = [*values[1:], last_value]
    count = len(drawn)
    expected = [
        values[s]
        + math.fsum(
            0.9 ** (t - s) * math.prod(c[s:t]) * rho[t] * (rewards[t] + 0.9 * after[t] - values[t])
            for t in range(s, count)
        )
        for s in range(count)
    ]
    found = vtrace(
        torch.tensor([each[2] for each in drawn]),
        torch.tensor(rewards),
        torch.tensor(values),
        last_value,
        discount=0.9,
        most_rho=bars[0],
        most_c=bars[1],
    )
    assert found.targets.tolist() == approx(expected)
    followed = [*expected[1:], last_value]
    assert found.advantages.tolist() == approx(
        [rho[t] * (rewards[t] + 0.9 * followed[t] - values[t]) for t in range(count)]
    )


def test_on_policy_v_trace_is_the_n_step_return():
    # Espeholt et al. 2018, remark 1: with ratios of 1 the targets are those of Bellman
    found = vtrace(torch.zeros(4), REWARDS, VALUES, CUT_OFF, discount=0.9)
    returns, running = [], CUT_OFF
    for reward in reversed(REWARDS.tolist()):
        running = reward + 0.9 * running
        returns.insert(0, running)
    assert found.targets.tolist() == approx(returns)


def test_a_cut_off_episode_is_not_taken_for_one_that_ended():
    # 99 a step for ever, and the value says so: what was cut off is no worse than expected
    rewards, values = torch.full((5,), 1.0), torch.full((5,), 100.0)
    for found in (
        gae(rewards, values, 100.0, discount=0.99, decay=0.95),
        vtrace(torch.zeros(5), rewards, values, 100.0, discount=0.99),
    ):
        assert found.advantages.abs().max() < 1e-3
    ended = gae(rewards, values, 0.0, discount=0.99, decay=0.95)
    assert ended.advantages[-1] == pytest.approx(-99.0)
