"""The risk engine: each signal fires, each level does what it says, and nothing is taken for 0."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.command import Command, Cull, Germinate, NoOp, Operate, PauseSeeds
from esper_async.tamiyo.risk.engine import PATIENCE_BOUNDARIES, RiskEngine
from esper_async.tamiyo.risk.levels import RiskLevel
from esper_async.tamiyo.risk.pauses import PauseQuota, PauseRefusedError
from esper_async.tamiyo.risk.signals import Surroundings
from esper_async.tamiyo.risk.thresholds import BASE, WINDOWS, Thresholds
from esper_async.tamiyo.view import MachineView, View
from tests.tamiyo.graph_views import seed, view

CALM = Surroundings(bus_backlog=0.0, missed_deadlines=0)
TIGHT = MachineView(memory_available=0.01, decision_ms=1.0)
ROOMY = MachineView(memory_available=0.8, decision_ms=1.0)
TOURNAMENT = Germinate(
    (Candidate("first", "BP009"), Candidate("second", "BP003"), Candidate("third", "BP002"))
)


def engine(*, acts: bool = True, quota: int = 100) -> RiskEngine:
    return RiskEngine(acts=acts, quota=PauseQuota(quota))


def training(norm: float | None, name: str = "s1", *, paused: bool = False) -> View:
    told = replace(seed(name, Stage.TRAINING), gradient_norm=norm, paused=paused)
    return view(seeds=[told], machine=ROOMY)


def test_a_quiet_boundary_is_green_and_the_command_is_what_was_proposed() -> None:
    found = engine().weigh(view(machine=ROOMY), TOURNAMENT, CALM)
    assert found.level is RiskLevel.GREEN
    assert found.command == TOURNAMENT
    assert found.reason_code == "usual"
    assert found.mitigations == ()


def test_what_was_not_measured_is_named_and_is_no_zero() -> None:
    found = engine().weigh(view(), NoOp(), Surroundings())
    assert set(found.unmeasured) == {"gradient_stability", "resource_pressure", "latency"}
    assert "resource_pressure" not in found.signals


@pytest.mark.parametrize(
    ("state", "around", "level", "reason"),
    [
        (replace(view(machine=ROOMY), validation_losses=[1.0, math.nan]), CALM,
         RiskLevel.CRITICAL, "loss_not_finite"),
        (training(math.inf), CALM, RiskLevel.RED, "gradient_not_finite"),
        (training(1e6), CALM, RiskLevel.RED, "gradient_unstable"),
        (view(machine=TIGHT), CALM, RiskLevel.RED, "memory_pressure"),
        (view(machine=replace(ROOMY, decision_ms=80.0)), CALM, RiskLevel.ORANGE, "slow_inference"),
        (view(machine=ROOMY), replace(CALM, missed_deadlines=1),
         RiskLevel.ORANGE, "missed_deadline"),
        (view(machine=ROOMY), replace(CALM, bus_backlog=1.0), RiskLevel.YELLOW, "bus_stalled"),
    ],
)  # fmt: skip
def test_each_trouble_is_met_with_its_level_and_its_reason_at_once(
    state: View, around: Surroundings, level: RiskLevel, reason: str
) -> None:
    found = engine().weigh(state, TOURNAMENT, around)
    assert (found.level, found.reason_code) == (level, reason)


def test_a_loss_far_over_its_usual_level_is_drift() -> None:
    weighing = engine()
    for boundary in range(4, 12):
        weighing.weigh(view(boundary, machine=ROOMY), NoOp(), CALM)
    worse = replace(view(12, machine=ROOMY), validation_losses=[1.0] * 11 + [2.5])
    found = weighing.weigh(worse, NoOp(), CALM)
    assert found.level is RiskLevel.RED
    assert found.reason_code == "loss_drift"


def test_yellow_plants_the_safer_half_gently() -> None:
    found = engine().weigh(view(machine=ROOMY), TOURNAMENT, replace(CALM, bus_backlog=1.0))
    assert isinstance(found.command, Germinate)
    assert [c.blueprint for c in found.command.candidates] == ["BP003", "BP002"]
    assert {c.ramp for c in found.command.candidates} == {"sigmoid"}
    assert found.mitigations


def test_orange_leaves_the_safest_alternative() -> None:
    slow = replace(ROOMY, decision_ms=80.0)
    found = engine().weigh(view(machine=slow), TOURNAMENT, CALM)
    assert isinstance(found.command, Germinate)
    assert len(found.command.candidates) == 1
    grafting = engine().weigh(view(machine=slow), Operate("s1", "START_GRAFTING"), CALM)
    assert grafting.command == NoOp()
    assert engine().weigh(view(machine=slow), Cull("s1"), CALM).command == Cull("s1")


def test_red_refuses_and_pauses_the_seeds_and_calm_lets_them_go_on() -> None:
    weighing = engine()
    told = replace(seed("s1", Stage.TRAINING), gradient_norm=1.0)
    found = weighing.weigh(view(seeds=[told], machine=TIGHT), TOURNAMENT, CALM)
    assert found.command == PauseSeeds(("s1",))
    assert "refused" in found.mitigations
    held = view(seeds=[replace(told, paused=True)], machine=ROOMY)
    answers = [weighing.weigh(held, NoOp(), CALM).command for _ in range(WINDOWS)]
    assert answers == [NoOp()] * (WINDOWS - 1) + [PauseSeeds(("s1",), paused=False)]


def test_a_level_that_is_held_keeps_the_reason_of_its_rise() -> None:
    weighing = engine()
    weighing.weigh(view(machine=TIGHT), NoOp(), CALM)
    held = weighing.weigh(view(15, machine=ROOMY), TOURNAMENT, CALM)
    assert (held.level, held.reason_code) == (RiskLevel.RED, "memory_pressure")


def test_a_removal_takes_risk_away_and_is_never_refused() -> None:
    assert engine().weigh(view(machine=TIGHT), Cull("s1"), CALM).command == Cull("s1")


@pytest.mark.parametrize("proposed", [NoOp(), TOURNAMENT, Cull("s1")])
def test_an_engine_that_does_not_act_leaves_every_command_as_it_is(proposed: Command) -> None:
    found = engine(acts=False).weigh(training(math.inf), proposed, CALM)
    assert found.level is RiskLevel.RED
    assert found.command == proposed
    assert not found.acts


def test_conservative_mode_shuts_the_experimental_tier_waits_and_ends_by_hysteresis() -> None:
    weighing = engine()
    weighing.weigh(view(10, machine=TIGHT), NoOp(), CALM)
    assert weighing.conservative
    for boundary in range(11, 11 + WINDOWS - 1):
        weighing.weigh(view(boundary, machine=ROOMY), NoOp(), CALM)
    mixed = Germinate((Candidate("first", "BP036"), Candidate("second", "BP002")))
    found = weighing.weigh(view(13, machine=ROOMY), mixed, CALM)
    assert isinstance(found.command, Germinate)
    assert [c.blueprint for c in found.command.candidates] == ["BP002"]
    hasty = weighing.weigh(view(14, machine=ROOMY), mixed, CALM)
    assert hasty.command == NoOp()
    assert hasty.mitigations == ("longer between actions",)
    for boundary in range(15, 15 + WINDOWS + PATIENCE_BOUNDARIES):
        weighing.weigh(view(boundary, machine=ROOMY), NoOp(), CALM)
    assert not weighing.conservative


def test_pauses_are_drawn_from_a_quota_by_those_who_may() -> None:
    quota = PauseQuota(2)
    quota.draw("risk", 2)
    with pytest.raises(PauseRefusedError, match="0 are left"):
        quota.draw("operator", 1)
    with pytest.raises(PauseRefusedError, match="may not pause"):
        PauseQuota(5).draw("policy", 1)


def test_without_a_quota_nothing_is_paused_and_it_is_said() -> None:
    told = replace(seed("s1", Stage.TRAINING), gradient_norm=1.0)
    found = engine(quota=0).weigh(view(seeds=[told], machine=TIGHT), TOURNAMENT, CALM)
    assert found.command == NoOp()
    assert any("quota" in words for words in found.mitigations)
    assert found.to_json()["pauses_left"] == 0
    assert engine(quota=9).weigh(view(seeds=[told], machine=TIGHT), NoOp(), CALM).pauses_left == 8


def test_a_saved_engine_goes_on_as_it_would_have() -> None:
    one, other = engine(), engine()
    for boundary in range(4, 9):
        one.weigh(view(boundary, machine=TIGHT), NoOp(), CALM)
    other.load_state_dict(json.loads(json.dumps(one.state_dict())))
    later = view(9, machine=ROOMY)
    assert one.weigh(later, TOURNAMENT, CALM) == other.weigh(later, TOURNAMENT, CALM)


# -- thresholds --------------------------------------------------------------------------------


def test_a_level_rises_at_once_and_falls_after_some_boundaries() -> None:
    thresholds = Thresholds()
    assert thresholds.take(0.9) is RiskLevel.RED
    assert [thresholds.take(0.0) for _ in range(WINDOWS)] == [
        *[RiskLevel.RED] * (WINDOWS - 1),
        RiskLevel.GREEN,
    ]


def test_a_score_that_is_always_a_little_high_becomes_usual() -> None:
    thresholds = Thresholds()
    levels = [thresholds.take(0.41) for _ in range(60)]
    assert levels[0] is RiskLevel.YELLOW
    assert levels[-1] is RiskLevel.GREEN


def test_conservative_mode_lowers_every_threshold_below_critical() -> None:
    thresholds = Thresholds()
    assert thresholds.of(RiskLevel.ORANGE, conservative=True) == pytest.approx(0.4)
    assert thresholds.of(RiskLevel.CRITICAL, conservative=True) == BASE[RiskLevel.CRITICAL]


def test_a_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="not a number"):
        Thresholds().take(math.nan)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40))
def test_no_level_is_lower_than_its_score_reaches_now(scores: list[float]) -> None:
    thresholds = Thresholds()
    for score in scores:
        reached = [level for level in BASE if score >= thresholds.of(level)]
        assert thresholds.take(score) >= max(reached, default=RiskLevel.GREEN)
