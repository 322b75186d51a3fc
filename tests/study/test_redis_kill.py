"""The benchmark of a killed Redis: how it judges drills, and when it cannot say."""

from collections.abc import Sequence

import pytest

from esper_async.study.bench.benchmark import Verdict
from esper_async.study.bench.cases.redis_kill import Drill, Life, _cpu, _wall


def life(*, cpu: float = 1.0, wall: float = 1.0) -> Life:
    """Return a run of two epochs with one step that stands out."""
    cpu_s = {0: [0.01] * 8, 1: [0.02] * 7 + [0.02 * cpu]}
    return Life("run", cpu_s, [0.05, 0.05 * wall], told={}, stored={})


def drills_of(killed: Sequence[Life], control: Life | None = None) -> list[Drill]:
    return [Drill(life(), each, control or life()) for each in killed]


@pytest.mark.parametrize(
    ("walls", "control", "verdict"),
    [
        ([1.2], 1.0, Verdict.PASS),
        ([2.0], 1.0, Verdict.MISS),
        ([1.0, 2.0, 2.0, 2.0, 2.0], 1.0, Verdict.MISS),
        ([1.0, 1.0, 1.0, 2.0, 9.0], 1.0, Verdict.PASS),
        ([2.0, 4.0, 4.0], 1.6, Verdict.INCONCLUSIVE),
        ([1.0, 1.0, 4.0], 1.6, Verdict.PASS),
        ([99.0], 1.6, Verdict.MISS),
    ],
)
def test_the_median_drill_counts_and_uneven_controls_cast_doubt_on_what_is_late(
    walls: list[float], control: float, verdict: Verdict
) -> None:
    drills = drills_of([life(wall=wall) for wall in walls], life(wall=control))
    assert _wall(drills).verdict is verdict


@pytest.mark.parametrize(
    ("killed", "control", "verdict"),
    [
        ([2.5], 1.0, Verdict.PASS),
        ([3.5], 1.0, Verdict.MISS),
        ([1.0, 3.5, 3.5], 1.0, Verdict.MISS),
        ([1.0, 1.0, 3.5], 1.0, Verdict.PASS),
        ([3.5], 3.5, Verdict.INCONCLUSIVE),
        ([2.5], 3.5, Verdict.PASS),
        ([20.0], 3.5, Verdict.MISS),
    ],
)
def test_a_long_step_is_a_miss_unless_a_control_has_one_too(
    killed: list[float], control: float, verdict: Verdict
) -> None:
    drills = drills_of([life(cpu=cpu) for cpu in killed], life(cpu=control))
    assert _cpu(drills).verdict is verdict


def test_an_epoch_in_which_every_step_is_long_does_not_hide_itself() -> None:
    slow = Life("run", {0: [0.01] * 8, 1: [0.2] * 8}, [0.05], told={}, stored={})
    (drill,) = drills_of([slow])
    assert drill.longest_cpu(slow) == pytest.approx(10.0)
