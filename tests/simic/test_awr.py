"""Advantage-weighted regression: cases worked out by hand, and worlds whose truth is known."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from esper_async.leyline import SeedLifecycleStage
from esper_async.simic import ExperienceStore
from esper_async.simic.awr import (
    MOST_WEIGHT,
    RIDGE,
    advantage_weights,
    baseline,
    learn_ensemble,
    learn_member,
    regressed,
)
from esper_async.simic.experience import experience_of
from esper_async.simic.learn import main
from esper_async.simic.trajectory import Step
from esper_async.simic.trials import Trial, trials_from
from esper_async.tamiyo.command import Germinate
from esper_async.tamiyo.offer import PLACEMENT_WIDTH, unpack_draw
from esper_async.tamiyo.policies.awr import AwrPolicy
from esper_async.tamiyo.policies.learned import FeatureVersionError, digest_of, save_learned
from esper_async.tamiyo.policies.softmax_ensemble import (
    SoftmaxEnsemble,
    load_ensemble,
)
from tests.simic.experiences import decision, quantity, report
from tests.simic.test_draws import drawn
from tests.tamiyo.graph_views import view

TRUTH = np.array([0.0, 2.0, 1.0, -0.5, 1.0, -1.0, 0.0, 0.5])
NO_PRIOR = np.zeros(PLACEMENT_WIDTH)


def unit(place: int, value: float = 1.0) -> np.ndarray:
    found = np.zeros(PLACEMENT_WIDTH)
    found[place] = value
    return found


def trial(chosen: int, reward: float, *features: np.ndarray, run: str = "a") -> Trial:
    return Trial(run, np.array(features), chosen, 1.0 / len(features), reward)


def history(count: int, seed: int = 0, *, shuffled: bool = False) -> list[Trial]:
    """What an even policy planted out of 30, two a run, with a spread of 1 about the truth."""
    source = np.random.default_rng(seed)
    offers = [offered(source) for _ in range(count)]
    chosen = source.integers(30, size=count)
    rewards = np.array([offer[place] @ TRUTH for offer, place in zip(offers, chosen, strict=True)])
    rewards += source.normal(0.0, 1.0, size=count)
    if shuffled:
        rewards = source.permutation(rewards)
    return [
        Trial(f"run{n // 2}", offers[n], int(chosen[n]), 1 / 30, float(rewards[n]))
        for n in range(count)
    ]


def offered(source: np.random.Generator, count: int = 30) -> np.ndarray:
    return np.hstack([np.ones((count, 1)), source.random((count, PLACEMENT_WIDTH - 1))])


def gain(ensemble: SoftmaxEnsemble, offers: int = 40) -> float:
    """Return by how much more its choices bring than even ones, in shares of what the best do."""
    source = np.random.default_rng(77)
    brought, best = 0.0, 0.0
    for _ in range(offers):
        offer = offered(source)
        worth = offer @ TRUTH
        brought += ensemble.probabilities(offer) @ worth - worth.mean()
        best += worth.max() - worth.mean()
    return brought / best


# -- by hand -----------------------------------------------------------------------------------


def test_weights_are_exponentials_of_advantages_over_their_spread_with_mean_one() -> None:
    """Advantages 1 and -1 have spread 1: e and 1/e, of mean cosh 1."""
    found = advantage_weights(np.array([1.0, -1.0]), np.ones(2))
    assert found == pytest.approx([math.e / math.cosh(1), 1 / math.e / math.cosh(1)])


def test_a_larger_unit_of_reward_changes_no_weight() -> None:
    advantages = np.array([0.3, -0.1, 0.7, 0.0])
    once = advantage_weights(advantages, np.ones(4))
    assert advantage_weights(100.0 * advantages, np.ones(4)) == pytest.approx(once)


def test_no_weight_is_above_the_limit() -> None:
    """One advantage of 99 among 99 of -1 is 9.95 spreads: e to that would be 21 000."""
    advantages = np.full(100, -1.0)
    advantages[0] = 99.0
    found = advantage_weights(advantages, np.ones(100))
    assert found[0] / found[1] == pytest.approx(MOST_WEIGHT / math.exp(-1 / math.sqrt(99)))


def test_advantages_that_are_all_alike_weigh_alike() -> None:
    assert advantage_weights(np.full(3, 0.2), np.ones(3)) == pytest.approx([1.0, 1.0, 1.0])


def test_a_trial_that_counts_twice_is_as_two_trials() -> None:
    twice = advantage_weights(np.array([1.0, -1.0]), np.array([2.0, 1.0]))
    three = advantage_weights(np.array([1.0, 1.0, -1.0]), np.ones(3))
    assert twice == pytest.approx(three[1:])


def test_the_baseline_is_ridge_regression_on_what_was_offered() -> None:
    """One state [2, 0, ...], rewards 3 and 5: v = 2 (3 + 5) / (1 + 8), V = 2 v."""
    states = np.array([unit(0, 2.0), unit(0, 2.0)])
    assert baseline(states, np.array([3.0, 5.0]), np.ones(2)) == pytest.approx([32 / 9, 32 / 9])


def test_the_regression_is_the_logarithm_of_the_weights_less_what_the_prior_holds_back() -> None:
    """Two placements that differ by d in one feature; weights 3000 for one and 1000 for the other.

    Then p = softmax(θ d) and 4000 (3/4 - p) d = λ θ. With d = 1 that is close to θ = ln 3.
    """
    features = (unit(1), NO_PRIOR)
    both = [trial(0, 0.0, *features), trial(1, 0.0, *features)]
    theta = regressed(both, np.array([3000.0, 1000.0]), NO_PRIOR)
    assert theta[1] == pytest.approx(math.log(3), abs=2e-3)
    chance = 1.0 / (1.0 + math.exp(-theta[1]))
    assert 4000.0 * (0.75 - chance) == pytest.approx(RIDGE * theta[1], abs=1e-6)
    assert theta[[0, *range(2, 8)]] == pytest.approx(0.0)


def test_what_no_trial_tells_apart_stays_at_the_prior() -> None:
    prior = np.linspace(-1.0, 1.0, PLACEMENT_WIDTH)
    alike = [trial(0, 1.0, unit(0), unit(0))]
    assert regressed(alike, np.ones(1), prior) == pytest.approx(prior)
    assert learn_member(alike, np.zeros(1), prior) is prior


def test_pessimism_takes_the_members_spread_off_their_mean() -> None:
    """Members say 1 and 3 of feature 1, and 2 and -2 of feature 2: so 2 - 1, and 0 - 2."""
    weights = np.array([unit(1, 1.0) + unit(2, 2.0), unit(1, 3.0) - unit(2, 2.0)])
    offer = np.array([unit(1), unit(2), NO_PRIOR])
    ensemble = SoftmaxEnsemble(weights, NO_PRIOR)
    assert ensemble.scores(offer, pessimism=1.0) == pytest.approx([1.0, -2.0, 0.0])
    assert ensemble.scores(offer, pessimism=0.0) == pytest.approx([2.0, 0.0, 0.0])


def test_what_was_tried_is_where_members_agree() -> None:
    """Measured from feature 2 itself, they disagree about what is without it."""
    ensemble = SoftmaxEnsemble(np.array([unit(2, 2.0), unit(2, -2.0)]), unit(2))
    assert ensemble.scores(np.array([unit(2), NO_PRIOR])) == pytest.approx([0.0, -2.0])


def test_the_best_is_planted_as_a_rule_and_a_share_is_drawn() -> None:
    ensemble = SoftmaxEnsemble(unit(1, math.log(3))[None], NO_PRIOR)
    offer = np.array([unit(1), NO_PRIOR])
    assert ensemble.probabilities(offer, exploration=0.2) == pytest.approx([0.8 + 0.15, 0.05])


# -- where the truth is known ------------------------------------------------------------------


def test_with_more_trials_it_comes_nearer_to_the_best() -> None:
    few, many = (
        np.mean([gain(learn_ensemble(history(n, s))) for s in range(4)]) for n in (20, 200)
    )
    assert few > 0.2
    assert many > 0.7


def test_from_shuffled_rewards_it_learns_nothing_worth_having() -> None:
    """Its choices are as good as even ones, give or take luck; 0.3 is three times that."""
    gains = [gain(learn_ensemble(history(60, seed, shuffled=True))) for seed in range(12)]
    assert abs(np.mean(gains)) < 0.3
    assert np.mean([gain(learn_ensemble(history(60, seed))) for seed in range(4)]) > 0.5


def test_where_nothing_was_tried_the_members_disagree_and_the_placement_is_avoided() -> None:
    """Feature 7 was 0 in every trial; of two that differ in it alone, the known one is taken."""
    told = history(100)
    blind = [
        Trial(
            each.run, each.features * (np.arange(8) < 7), each.chosen, each.propensity, each.reward
        )
        for each in told
    ]
    ensemble = learn_ensemble(blind)
    assert ensemble.weights[:, 7].mean() == pytest.approx(0.0)
    assert ensemble.weights[:, 7].std() > 1.5 * ensemble.weights[:, 1].std()
    known = offered(np.random.default_rng(5), 6) * (np.arange(8) < 7)
    strange = known.copy()
    strange[:, 7] = 3.0
    assert ensemble.scores(np.vstack([known, strange])).argmax() < 6


def test_one_run_makes_members_no_surer_than_their_priors() -> None:
    one = [trial(0, 1.0, unit(1), unit(2), run="only")]
    assert learn_ensemble(one).weights.std(axis=0).min() > 0.3


def test_without_trials_nothing_is_preferred_on_average() -> None:
    assert learn_ensemble([]).weights.mean(axis=0) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="pairs"):
        learn_ensemble([], members=3)


def test_the_same_trials_and_seed_make_the_same_ensemble() -> None:
    first, again, other = (digest_of(learn_ensemble(history(20), seed=n)) for n in (3, 3, 4))
    assert first == again != other


# -- from records to runs ----------------------------------------------------------------------


def planted(number: int, chosen: int, brought: float) -> tuple[object, object]:
    message, told = drawn(number, chosen=chosen, idle=0.0), report("a", number)
    told.stage = SeedLifecycleStage.SEED_LIFECYCLE_STAGE_FOSSILIZED
    told.benefit_vs_twin.CopyFrom(quantity(brought))
    return message, told


def test_what_is_no_trial_is_counted_by_why() -> None:
    message, told = planted(1, 2, 0.1)
    settled = experience_of(Step(1, message, (told,)))  # type: ignore[arg-type]
    idle = experience_of(Step(2, drawn(2, chosen=None), ()))
    open_ = experience_of(Step(3, drawn(3), ()))
    found = trials_from(
        [settled, settled, idle, open_, experience_of(Step(4, decision("a", 4), ()))]
    )
    (only,) = found.trials
    assert (only.chosen, only.reward) == (2, pytest.approx(20 * 0.09))
    assert only.propensity == pytest.approx(1 / 9)
    assert only.features.shape == (9, PLACEMENT_WIDTH)
    assert dict(found.skipped) == {
        "plants nothing": 1,
        "it is not settled yet, or was undone": 1,
        "what it was drawn from was not recorded": 1,
    }


def test_a_store_is_learned_from_by_command_and_the_policy_plants_by_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The third blueprint helps at every site; the others do harm."""
    store = ExperienceStore(tmp_path / "simic" / "experience.sqlite", now=lambda: 1e6)
    for number in range(54):
        place = number % 9
        messages = planted(number, place, 0.1 if place % 3 == 2 else -0.05)
        store.take_many([(each, f"{number}/{kind}") for kind, each in enumerate(messages)])  # type: ignore[misc]
    store.close()
    output = tmp_path / "awr.json"
    assert main([str(tmp_path), str(output)]) == 0
    assert "from 54 placements of 1 runs" in capsys.readouterr().out
    assert json.loads(output.read_text())["lineage"]["learner"] == "awr-1"
    ensemble = load_ensemble(output)
    policy = AwrPolicy(0, ensemble)
    assert policy.version == f"1+{digest_of(ensemble)}"
    commands = [policy.decide(view(14)).command for _ in range(60)]
    chosen = [each.candidates[0].blueprint for each in commands if isinstance(each, Germinate)]
    assert chosen.count("BP009") >= 50
    decided = policy.decide(view(14))
    assert decided.choices is not None
    told = unpack_draw(decided.choices)
    assert told.probabilities[told.chosen] == pytest.approx(decided.probability)
    resumed = AwrPolicy(9, ensemble)
    resumed.load_state_dict(json.loads(json.dumps(policy.state_dict())))
    assert resumed.decide(view(14)) == policy.decide(view(14))
    with pytest.raises(ValueError, match="keeps its policy"):
        AwrPolicy(0, SoftmaxEnsemble.blank()).load_state_dict(policy.state_dict())


def test_weights_that_are_none_are_refused(tmp_path: Path) -> None:
    save_learned(SoftmaxEnsemble.blank(), tmp_path / "blank.json", lineage={})
    assert digest_of(load_ensemble(tmp_path / "blank.json")) == digest_of(SoftmaxEnsemble.blank())
    good = SoftmaxEnsemble.blank().to_json()
    with pytest.raises(FeatureVersionError):
        SoftmaxEnsemble.from_json({**good, "features": "placement-0"})
    with pytest.raises(ValueError, match="not finite"):
        SoftmaxEnsemble.from_json({**good, "weights": [[math.nan] * PLACEMENT_WIDTH]})
    with pytest.raises(ValueError, match="reference of shape"):
        SoftmaxEnsemble.from_json({**good, "reference": [0.0]})
    with pytest.raises(ValueError, match="shape"):
        SoftmaxEnsemble.from_json({**good, "weights": [[0.0]]})
