"""Killed with SIGKILL at any instant, a run resumes and ends bitwise where it would have."""

import random
from pathlib import Path
from typing import Any

import pytest

from tests.growth_hosts import differing
from tests.tolaria.crashing import STEPS_PER_EPOCH, Plan, final_state

CULL_STEP = 66
"""In the ninth epoch, with a seed on trial: carried out at boundary 9, two past a checkpoint."""


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return final_state(tmp_path_factory.mktemp("straight") / "run", Plan(cull_step=CULL_STEP))


def test_the_run_that_is_killed_grows(uninterrupted: dict[str, Any]) -> None:
    assert "FOSSILIZED" in {stage for _, _, stage in uninterrupted["stages"]}


def test_a_run_killed_in_shadow_in_blending_and_after_a_cull_ends_bitwise_the_same(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    kills = [(45, 0.0), (61, 2.0), (85, 0.0)]
    killed = final_state(tmp_path / "run", Plan(cull_step=CULL_STEP, kills=kills))
    assert differing(uninterrupted, killed) == []


def test_a_journal_that_is_not_replayed_would_be_noticed(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    plan = Plan(cull_step=CULL_STEP, kills=[(85, 0.0)], mutation="journal not replayed")
    assert differing(uninterrupted, final_state(tmp_path / "run", plan)) != []


@pytest.mark.full
def test_random_states_that_are_not_restored_would_be_noticed(
    uninterrupted: dict[str, Any], tmp_path: Path
) -> None:
    plan = Plan(cull_step=CULL_STEP, kills=[(85, 0.0)], mutation="random states not restored")
    assert differing(uninterrupted, final_state(tmp_path / "run", plan)) != []


@pytest.mark.full
@pytest.mark.parametrize("number", range(5))
def test_kills_at_random_instants_change_nothing(
    uninterrupted: dict[str, Any], tmp_path: Path, number: int
) -> None:
    """Six a run: at steps, in the middle of them, in checkpoint writes, two in a row."""
    draw = random.Random(number)
    last = 13 * STEPS_PER_EPOCH  # of 16: a kill may come 25 ms late, and must find the run alive
    steps = sorted(draw.randint(1, last) for _ in range(6))
    kills = [(step, draw.choice([0.0, draw.uniform(0.1, 25.0)])) for step in steps]
    killed = final_state(tmp_path / "run", Plan(cull_step=CULL_STEP, kills=kills))
    assert differing(uninterrupted, killed) == [], kills
