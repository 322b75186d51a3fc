"""What a policy did beside another: counted, judged, and nothing sound called illegal."""

import copy
import json

import pytest

from esper_async.kasmina.operations import Verb
from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.command import Command, Cull, Germinate, NoOp, Operate, PauseSeeds
from esper_async.tamiyo.command_legality import why_illegal
from esper_async.tamiyo.conduct import Conduct, faults, regressions, riskier, slower
from esper_async.tamiyo.imitation.states import StateDraw
from esper_async.tamiyo.policies import POLICIES, make_policy
from esper_async.tamiyo.risk.engine import RiskEngine
from esper_async.tamiyo.risk.levels import RiskLevel
from esper_async.tamiyo.risk.signals import Surroundings
from esper_async.tamiyo.shadow_tally import ShadowTally
from tests.tamiyo.graph_views import seed, view


def conduct(count: int = 10, *, ms: float = 1.0, risk: float = 0.1) -> Conduct:
    found = Conduct()
    for _ in range(count):
        found.add(cpu_ms=ms, risk=(risk, RiskLevel.GREEN))
    return found


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_nothing_that_a_policy_of_ours_decides_is_illegal(name: str) -> None:
    draw = StateDraw(11)
    policy = make_policy(name, 0)
    for _ in range(40):
        state = draw.view(sites=(1, 8))
        assert why_illegal(policy.decide(state).command, state) is None


def planted(*places: int) -> Germinate:
    return Germinate(tuple(view().placements[place].candidate() for place in places))


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (Cull("s9"), "no seed 's9'"),
        (PauseSeeds(("s1", "s9")), "no seed 's9'"),
        (Cull("s1"), "CULL of s1, which is FOSSILIZED"),
        (Operate("s1", "STABILIZE"), "STABILIZE of s1"),
        (planted(0, 1, 2), "3 candidates where 2 may be planted"),
        (Germinate(()), "0 candidates"),
    ],
)
def test_what_the_state_does_not_allow_is_illegal_and_says_why(
    command: Command, words: str
) -> None:
    state = view(seeds=[seed("s1", Stage.FOSSILIZED)], free=2)
    assert words in (why_illegal(command, state) or "")


def test_what_is_not_offered_may_not_be_planted() -> None:
    assert "is not offered" in (why_illegal(planted(0), view(planting=False)) or "")
    assert why_illegal(planted(0), view()) is None


def test_what_the_lifecycle_allows_is_legal() -> None:
    verbs: dict[Stage, Verb] = {Stage.BLENDING: "STABILIZE", Stage.PROBATIONARY: "FOSSILIZE"}
    for stage, verb in verbs.items():
        state = view(seeds=[seed("s1", stage)])
        for command in (Operate("s1", verb), Cull("s1"), PauseSeeds(("s1",)), NoOp()):
            assert why_illegal(command, state) is None


def test_one_fault_is_enough_and_figures_need_some_boundaries() -> None:
    new = conduct(2)
    new.failed("RuntimeError: broken")
    new.failed("another")
    assert faults(new) == ["it failed at 2 of 4 boundaries: RuntimeError: broken"]
    assert slower(conduct(9, ms=50.0), conduct()) == riskier(conduct(4, risk=0.9), conduct()) == []
    assert slower(conduct(10, ms=50.0), conduct()) != []
    assert riskier(conduct(5, risk=0.9), conduct()) != []
    assert regressions(conduct(), conduct()) == []


def test_a_busy_machine_that_slows_both_down_makes_nobody_slow() -> None:
    assert slower(conduct(ms=40.0), conduct(ms=30.0)) == []
    assert "40.0 ms, 15.0 ms beside it" in slower(conduct(ms=40.0), conduct(ms=15.0))[0]
    assert slower(conduct(ms=11.0), conduct(ms=0.1)) == []
    assert "40.0 ms (nine" in slower(conduct(ms=40.0), Conduct())[0]
    late, other = conduct(8), conduct(8)
    late.was_late()
    assert slower(late, other) == []
    late.was_late()
    assert slower(late, other) == ["2 of 10 answers were late, 0 beside it"]
    other.was_late()
    assert slower(late, other) == []


def test_a_risk_that_is_no_number_does_not_pass_as_none() -> None:
    new = conduct(5)
    new.risks[0] = float("nan")
    assert riskier(new, conduct()) != []


def test_counts_are_added_up_and_read_back() -> None:
    one, two = conduct(3), Conduct()
    two.add(cpu_ms=2.0, risk=(0.5, RiskLevel.ORANGE), illegal="no seed")
    one.merge(two)
    assert (one.decisions, one.illegal, one.level, one.fault) == (4, 1, "ORANGE", "no seed")
    assert len(one.cpu_ms) == 4
    assert Conduct.from_json(json.loads(json.dumps(one.to_json()))) == one
    with pytest.raises(TypeError):
        Conduct.from_json({**one.to_json(), "more": 1})
    tally = ShadowTally(one, conduct(4), agreed=2)
    assert ShadowTally.from_json(json.loads(json.dumps(tally.to_json()))) == tally
    assert tally.settled(100)
    assert not ShadowTally(conduct(4), conduct(4)).settled(5)


def test_a_preview_of_a_risk_is_what_weighing_would_say_and_is_not_remembered() -> None:
    engine, state = RiskEngine(acts=False), view()
    before = copy.deepcopy(engine.state_dict())
    score, level = engine.preview(state, planted(0), Surroundings())
    assert engine.state_dict() == before
    weighed = engine.weigh(state, planted(0), Surroundings())
    assert (score, level) == (weighed.score, weighed.level)
