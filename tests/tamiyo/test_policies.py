"""The policies: legal, repeatable, and resumable."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.command import Cull, Germinate, NoOp, command_from_json
from esper_async.tamiyo.policies import POLICIES, UnknownPolicyError, make_policy
from esper_async.tamiyo.policies.draw import Draw
from esper_async.tamiyo.view import Placement, SeedView, View

SITES = ("first", "second", "third")
PLACEMENTS = [
    Placement(site, depth, f"BP{number:03d}", "residual", 10 * number)
    for depth, site in enumerate(SITES)
    for number in range(1, 6)
]
CHANCES = {
    "random": 1 / 15,
    "periodic": 1 / 15,
    "largest": 1 / 3,
    "bandit": 0.9 + 0.1 / 15,
    "learned": pytest.approx(0.95, abs=0.05),  # of the best; the rest is spread over all
    "heuristic": None,  # that of a whole tournament is not computed, and so not claimed
}
GROWING = [name for name in POLICIES if name not in ("static", "gnn")]
"""Those that plant whenever they may; the graph policy has its own tests."""


def view(
    boundary: int = 14,
    *,
    last: int | None = None,
    seeds: Sequence[SeedView] = (),
    placements: Sequence[Placement] = PLACEMENTS,
    free: int = 8,
) -> View:
    return View(
        boundary=boundary,
        last_boundary=last,
        validation_losses=[1.0] * boundary,
        training_losses=[1.0] * boundary,
        seeds=seeds,
        placements=placements,
        free_candidates=free,
        host_parameters=100,
        remaining_parameters=800,
        trial_boundaries=7,
    )


def in_stage(stage: Stage) -> SeedView:
    return SeedView("s1", "first", "BP001", stage, 10)


def test_static_never_acts() -> None:
    policy = make_policy("static", 0)
    assert all(isinstance(policy.decide(view(b)).command, NoOp) for b in range(1, 30))


@pytest.mark.parametrize("name", GROWING)
def test_what_is_planted_was_offered(name: str) -> None:
    decision = make_policy(name, 3).decide(view())
    assert isinstance(decision.command, Germinate)
    offered = {(p.site, p.blueprint, p.blend) for p in PLACEMENTS}
    chosen = [(c.site, c.blueprint, c.blend) for c in decision.command.candidates]
    assert set(chosen) <= offered
    assert len(set(chosen)) == len(chosen) >= 1
    chance = CHANCES[name]
    assert decision.probability == (pytest.approx(chance) if type(chance) is float else chance)
    assert decision.reason


@pytest.mark.parametrize("name", GROWING)
@pytest.mark.parametrize("stage", [Stage.GERMINATED, Stage.TRAINING])
def test_nothing_is_planted_while_candidates_train(name: str, stage: Stage) -> None:
    decision = make_policy(name, 3).decide(view(seeds=[in_stage(stage)]))
    assert isinstance(decision.command, NoOp)


@pytest.mark.parametrize("name", GROWING)
def test_a_kept_seed_hinders_nothing(name: str) -> None:
    decision = make_policy(name, 3).decide(view(seeds=[in_stage(Stage.FOSSILIZED)]))
    assert isinstance(decision.command, Germinate)


@pytest.mark.parametrize("name", GROWING)
def test_nothing_is_planted_without_a_legal_placement(name: str) -> None:
    assert isinstance(make_policy(name, 3).decide(view(placements=())).command, NoOp)


@pytest.mark.parametrize("name", GROWING)
def test_nothing_is_planted_that_could_not_be_judged_before_the_end(name: str) -> None:
    assert isinstance(make_policy(name, 3).decide(view(last=20)).command, NoOp)
    assert isinstance(make_policy(name, 3).decide(view(last=21)).command, Germinate)


@pytest.mark.parametrize("name", GROWING)
def test_nothing_is_planted_before_the_start(name: str) -> None:
    decisions = [make_policy(name, 3).decide(view(b)) for b in (1, 2, 3)]
    assert all(isinstance(decision.command, NoOp) for decision in decisions)


@pytest.mark.parametrize("name", list(POLICIES))
def test_the_same_seed_and_views_give_the_same_decisions(name: str) -> None:
    views = [view(b) for b in range(1, 40)]
    one, other = make_policy(name, 7), make_policy(name, 7)
    assert [one.decide(v) for v in views] == [other.decide(v) for v in views]


@pytest.mark.parametrize("name", GROWING)
def test_a_saved_policy_goes_on_as_it_would_have(name: str) -> None:
    one, other = make_policy(name, 7), make_policy(name, 8)
    one.decide(view())
    saved: dict[str, Any] = json.loads(json.dumps(one.state_dict()))
    other.load_state_dict(saved)
    later = [view(14 + 10 * n) for n in range(6)]
    assert [one.decide(v).command for v in later] == [other.decide(v).command for v in later]


def test_other_seeds_choose_otherwise() -> None:
    chosen = {str(make_policy("random", seed).decide(view()).command) for seed in range(12)}
    assert len(chosen) > 1


def test_random_draws_evenly_and_says_with_what_probability() -> None:
    policy = make_policy("random", 0)
    drawn: Counter[str] = Counter()
    for _ in range(1500):
        decision = policy.decide(view())
        assert isinstance(decision.command, Germinate)
        assert decision.probability == 1 / len(PLACEMENTS)
        candidate = decision.command.candidates[0]
        drawn[f"{candidate.site}/{candidate.blueprint}"] += 1
    assert len(drawn) == len(PLACEMENTS)
    assert min(drawn.values()) > 60  # 100 expected of each


def test_periodic_acts_only_now_and_then() -> None:
    policy = make_policy("periodic", 0)
    acted = [b for b in range(1, 40) if isinstance(policy.decide(view(b)).command, Germinate)]
    assert acted == [4, 14, 24, 34]


def test_largest_takes_the_most_parameters_at_its_site() -> None:
    decision = make_policy("largest", 0).decide(view())
    assert isinstance(decision.command, Germinate)
    assert [candidate.blueprint for candidate in decision.command.candidates] == ["BP005"]


def test_heuristic_holds_a_tournament_within_the_room_there_is() -> None:
    for free in (1, 3, 8, 20):
        decision = make_policy("heuristic", 0).decide(view(free=free))
        assert isinstance(decision.command, Germinate)
        assert len(decision.command.candidates) == min(free, 8)


def test_heuristic_prefers_what_adds_most() -> None:
    policy = make_policy("heuristic", 0)
    drawn: Counter[str] = Counter()
    for _ in range(200):
        command = policy.decide(view(free=3)).command
        assert isinstance(command, Germinate)
        drawn.update(candidate.blueprint for candidate in command.candidates)
    assert drawn["BP005"] > 2 * drawn["BP001"] > 0


def test_heuristic_gives_every_site_its_share() -> None:
    for seed in range(20):
        command = make_policy("heuristic", seed).decide(view(free=4)).command
        assert isinstance(command, Germinate)
        drawn = Counter(candidate.site for candidate in command.candidates)
        assert max(drawn.values()) - min(drawn[site] for site in SITES) <= 1


@pytest.mark.parametrize(
    ("training", "validation", "waits"), [(0.2, 1.0, True), (0.6, 1.0, False), (1.2, 1.0, False)]
)
def test_heuristic_waits_while_the_net_memorises(
    training: float, validation: float, waits: bool
) -> None:
    seen = replace(view(), training_losses=[1.0, training], validation_losses=[1.0, validation])
    decision = make_policy("heuristic", 0).decide(seen)
    assert isinstance(decision.command, NoOp) is waits
    assert ("memorises" in decision.reason) is waits


def test_heuristic_does_not_wait_for_losses_that_nobody_measured() -> None:
    for training, validation in (([], [1.0]), ([1.0], []), ([-3.0], [-2.5])):
        seen = replace(view(), training_losses=training, validation_losses=validation)
        assert isinstance(make_policy("heuristic", 0).decide(seen).command, Germinate)


def test_a_weighted_draw_keeps_to_its_weights_however_large_they_are() -> None:
    draw = Draw(0, "test")
    weights = [3e20 * (index == 0) + 1e20 for index in range(len(PLACEMENTS))]
    first = Counter(draw.weighted(PLACEMENTS, weights, 1)[0] is PLACEMENTS[0] for _ in range(2000))
    assert 0.8 < first[True] / (2000 * 4 / (len(PLACEMENTS) + 3)) < 1.2


def test_an_unknown_policy_is_refused_with_those_known() -> None:
    with pytest.raises(UnknownPolicyError, match="heuristic"):
        make_policy("clever", 0)


@pytest.mark.parametrize(
    "command",
    [
        NoOp(),
        Cull("s3"),
        Germinate((Candidate("a", "BP001", "convex", {"x": 2}), Candidate("b", "BP002"))),
    ],
)
def test_a_command_survives_its_journal(command: Any) -> None:
    assert command_from_json(json.loads(json.dumps(command.to_json()))) == command


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="PRUNE"):
        command_from_json({"operation": "PRUNE"})
