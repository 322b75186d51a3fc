"""The benchmark of a killed Redis: how it judges drills, and when it cannot say."""

import pytest

from esper_async.study.bench.benchmark import Effort, Verdict
from esper_async.study.bench.cases.redis_kill import (
    Drill,
    Life,
    _cpu,
    _enough,
    _wall,
    quickest,
    worst,
)


def life(*, cpu: float = 1.0, wall: float = 1.0) -> Life:
    """Return a run of two epochs with one step that stands out."""
    cpu_s = {0: [0.01] * 8, 1: [0.02] * 7 + [0.02 * cpu]}
    return Life("run", cpu_s, [0.05, 0.05 * wall], 1, told={}, stored={})


def drill(*, killed: Life, control: Life) -> Drill:
    return Drill(life(), killed, control)


@pytest.mark.parametrize(
    ("drills", "verdict"),
    [
        ([(1.2, 1.0)], Verdict.PASS),
        ([(2.0, 1.0)], Verdict.MISS),
        ([(1.0, 1.0), (1.0, 1.0), (1.6, 1.0)], Verdict.MISS),  # the worst counts
        ([(2.0, 1.6)], Verdict.INCONCLUSIVE),
        ([(1.0, 1.0), (2.0, 1.6)], Verdict.INCONCLUSIVE),
        ([(1.0, 1.6)], Verdict.PASS),  # a late control explains no quick run
        ([(2.0, 1.6), (2.0, 1.0)], Verdict.MISS),
        ([(99.0, 1.6)], Verdict.MISS),
    ],
)
def test_the_worst_drill_counts_unless_its_controls_are_as_uneven(
    drills: list[tuple[float, float]], verdict: Verdict
) -> None:
    held = [drill(killed=life(wall=w), control=life(wall=control)) for w, control in drills]
    assert _wall(held, worst([each.wall for each in held], len(held))).verdict is verdict


@pytest.mark.parametrize(
    ("drills", "verdict"),
    [
        ([(2.5, 1.0)], Verdict.PASS),
        ([(3.5, 1.0)], Verdict.MISS),
        ([(1.0, 1.0), (1.0, 1.0), (3.5, 1.0)], Verdict.MISS),
        ([(3.5, 3.5)], Verdict.INCONCLUSIVE),
        ([(2.5, 3.5)], Verdict.PASS),
        ([(20.0, 3.5)], Verdict.MISS),
        ([(20.0, 10.0)], Verdict.INCONCLUSIVE),
    ],
)
def test_a_long_step_in_any_drill_is_a_miss_unless_a_control_has_one_too(
    drills: list[tuple[float, float]], verdict: Verdict
) -> None:
    held = [drill(killed=life(cpu=cpu), control=life(cpu=control)) for cpu, control in drills]
    assert _cpu(held, worst([each.cpu for each in held], len(held))).verdict is verdict


def test_a_drill_that_tells_nothing_is_made_good_by_another() -> None:
    noisy = drill(killed=life(cpu=3.5), control=life(cpu=3.4))
    quiet = drill(killed=life(cpu=2.0), control=life())
    held = [noisy, quiet]
    lates = [each.cpu for each in held]
    assert _cpu(held, worst(lates, 1)).verdict is Verdict.PASS
    row = _cpu(held, worst(lates, 2))
    assert row.verdict is Verdict.INCONCLUSIVE
    assert "the control is at 3.40 itself" in row.note


@pytest.mark.parametrize(
    ("drills", "enough", "verdict"),
    [
        ([(1.2, 1.0)], True, Verdict.PASS),
        ([(1.6, 1.1)], False, Verdict.MISS),  # held again, and a miss if it stays so
        ([(1.6, 1.1), (1.6, 1.1), (1.7, 1.1)], False, Verdict.MISS),
        ([(1.6, 1.1), (1.3, 1.1)], True, Verdict.PASS),
        ([(2.2, 1.6), (2.3, 1.7)], False, Verdict.INCONCLUSIVE),
        ([(99.0, 1.1)], True, Verdict.MISS),  # no luck makes it so late
    ],
)
def test_the_short_form_holds_a_late_drill_again(
    drills: list[tuple[float, float]], enough: bool, verdict: Verdict
) -> None:
    held = [drill(killed=life(wall=w), control=life(wall=control)) for w, control in drills]
    lates = [each.wall for each in held]
    assert _enough(lates, Effort.SHORT) is enough
    assert _wall(held, quickest(lates)).verdict is verdict


def test_an_epoch_in_which_every_step_is_long_does_not_hide_itself() -> None:
    slow = Life("run", {0: [0.01] * 8, 1: [0.2] * 8}, [0.05], 0, told={}, stored={})
    assert drill(killed=slow, control=life()).longest_cpu(slow) == pytest.approx(10.0)
