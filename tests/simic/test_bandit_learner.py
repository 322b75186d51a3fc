"""The offline bandit finds what helps where the truth is known, and nothing where there is none."""

import json
from pathlib import Path

import numpy as np
import pytest

from esper_async.leyline import SeedLifecycleStage, SeedOperation
from esper_async.simic import ExperienceStore
from esper_async.simic.bandit import learn_belief, preferred
from esper_async.simic.experience import Experience, experience_of
from esper_async.simic.learn import main
from esper_async.simic.lessons import Lessons, lessons_from
from esper_async.simic.trajectory import Step
from esper_async.tamiyo.command import Germinate
from esper_async.tamiyo.feature_versions import PLACEMENT_VERSION
from esper_async.tamiyo.offer import PLACEMENT_WIDTH, Offer
from esper_async.tamiyo.policies.bandit import BanditPolicy
from esper_async.tamiyo.policies.learned import FeatureVersionError, digest_of, save_learned
from esper_async.tamiyo.policies.linear_belief import (
    NOISE_NATS,
    PESSIMISM,
    LinearBelief,
    load_belief,
)
from tests.simic.experiences import decision, quantity, report
from tests.tamiyo.graph_views import view

ARMS = np.hstack([np.ones((9, 1)), np.random.default_rng(4).random((9, PLACEMENT_WIDTH - 1))])
TRUTH = np.array([0.02, 0.08, -0.05, 0.04, -0.03, 0.0, -0.06, 0.05])
BEST = int((ARMS @ TRUTH).argmax())


def planted(
    number: int, features: np.ndarray, brought: float, version: str = PLACEMENT_VERSION
) -> Experience:
    chosen, told = decision("a", number), report("a", number)
    chosen.command.seed.operation = SeedOperation.SEED_OPERATION_GERMINATE
    chosen.command.seed.candidates.add(site="body", blueprint_id="BP009")
    chosen.placements.add(version=version, values=features.tolist())
    told.stage = SeedLifecycleStage.SEED_LIFECYCLE_STAGE_FOSSILIZED
    told.benefit_vs_twin.CopyFrom(quantity(brought))
    return experience_of(Step(number, chosen, (told,)))


def history(count: int, seed: int = 0, arms: np.ndarray = ARMS) -> list[Experience]:
    """What an even policy tried, and what it brought with a spread of 0.02 nats."""
    source = np.random.default_rng(seed)
    rows = arms[source.integers(len(arms), size=count)]
    brought = rows @ TRUTH + source.normal(0.0, 0.02, size=count)
    return [planted(n, row, float(b)) for n, (row, b) in enumerate(zip(rows, brought, strict=True))]


def test_it_finds_the_best_arm() -> None:
    belief = learn_belief(lessons_from(history(300)))
    assert int(belief.lower_bounds(ARMS, pessimism=PESSIMISM).argmax()) == BEST
    assert BEST in preferred(belief, ARMS)
    truly_better = set(np.flatnonzero((ARMS @ TRUTH).mean() < ARMS @ TRUTH).tolist())
    assert set(preferred(belief, ARMS)) <= truly_better


def test_the_spread_is_that_of_the_world() -> None:
    assert learn_belief(lessons_from(history(300))).noise == pytest.approx(0.02, rel=0.15)


def test_with_shuffled_outcomes_it_prefers_nothing() -> None:
    told = lessons_from(history(300))
    source = np.random.default_rng(1)
    fooled = 0
    for _ in range(100):
        shuffled = Lessons(
            told.features, source.permutation(told.outcomes), told.runs, told.skipped
        )
        fooled += bool(preferred(learn_belief(shuffled), ARMS))
    assert fooled <= 3


def test_the_bounds_hold_about_as_often_as_they_say() -> None:
    """One standard error below the estimate lies below the truth five times in six."""
    held = [
        learn_belief(lessons_from(history(120, seed))).lower_bounds(ARMS, pessimism=1.0)
        <= ARMS @ TRUTH
        for seed in range(40)
    ]
    assert 0.75 < np.mean(held) <= 1.0


def test_what_was_never_tried_is_not_chosen_though_it_looks_better() -> None:
    tried = ARMS.copy()
    tried[:, -1] = 0.0
    belief = learn_belief(lessons_from(history(300, arms=tried)))
    best = tried[int((tried @ TRUTH).argmax())]
    unknown = best.copy()
    unknown[-1] = 5.0
    offered = np.stack([best, unknown])
    assert int(belief.lower_bounds(offered, pessimism=PESSIMISM).argmax()) == 0


def test_duplicated_reports_change_nothing() -> None:
    once = history(60)
    assert len(lessons_from([*once, *once[:30], *once])) == 60
    one = learn_belief(lessons_from(once))
    assert digest_of(learn_belief(lessons_from([*once, *once[:30], *once]))) == digest_of(one)


def test_features_of_another_version_are_refused() -> None:
    with pytest.raises(FeatureVersionError, match=r"placement-0.*learn anew"):
        lessons_from([*history(3), planted(9, ARMS[0], 0.1, version="placement-0")])
    with pytest.raises(FeatureVersionError):
        LinearBelief.from_json({**LinearBelief.blank().to_json(), "features": "placement-0"})


def test_nothing_learned_is_that_every_placement_brings_nothing() -> None:
    belief = learn_belief(lessons_from([]))
    assert belief.weights.tolist() == [0.0] * PLACEMENT_WIDTH
    assert belief.noise == NOISE_NATS
    assert preferred(belief, ARMS) == []


def test_few_lessons_are_not_believed_to_be_free_of_noise() -> None:
    assert learn_belief(lessons_from(history(9))).noise >= NOISE_NATS


def test_what_teaches_nothing_is_counted_by_why() -> None:
    quiet = experience_of(Step(0, decision("a", 0), ()))
    bare = planted(1, ARMS[0], 0.1)
    bare.step.decision.ClearField("placements")
    unmeasured = planted(2, ARMS[0], 0.1)
    unmeasured.step.reports[0].benefit_vs_twin.estimated = True
    again = experience_of(unmeasured.step)
    found = lessons_from([quiet, bare, again])
    assert len(found) == 0
    assert dict(found.skipped) == {
        "plants nothing": 1,
        "its features were not recorded": 1,
        "what it brought was not measured": 1,
    }


def test_the_policy_plants_by_what_was_learned_and_says_by_which(tmp_path: Path) -> None:
    here = view(14)
    policy = BanditPolicy(0)
    offered = Offer.of(here, policy._catalogue).features()
    belief = learn_belief(lessons_from(history(200, arms=offered)))
    save_learned(belief, tmp_path / "bandit.json", lineage={})
    taught = BanditPolicy(0, belief=load_belief(tmp_path / "bandit.json"))
    assert taught.version == f"1+{digest_of(belief)}"
    best = here.placements[int(belief.lower_bounds(offered, pessimism=PESSIMISM).argmax())]
    chosen = [taught.decide(here).command for _ in range(40)]
    hits = [
        command.candidates[0].site == best.site
        and command.candidates[0].blueprint == best.blueprint
        for command in chosen
        if isinstance(command, Germinate)
    ]
    assert sum(hits) >= 30
    resumed = BanditPolicy(5)
    resumed.load_state_dict(json.loads(json.dumps(taught.state_dict())))
    assert resumed.decide(here) == taught.decide(here)


def test_a_store_is_learned_from_by_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ExperienceStore(tmp_path / "simic" / "experience.sqlite", now=lambda: 1e6)
    steps = [each.step for each in history(50)]
    store.take_many([(step.decision, f"d{step.boundary}") for step in steps])
    store.take_many([(step.reports[0], f"r{step.boundary}") for step in steps])
    store.close()
    output = tmp_path / "bandit.json"
    assert main([str(tmp_path), str(output), "--learner", "bandit"]) == 0
    assert "from 50 placements of 1 runs" in capsys.readouterr().out
    learned = learn_belief(lessons_from(history(50)))
    assert digest_of(load_belief(output)) == digest_of(learned)
    assert json.loads(output.read_text())["lineage"]["lessons"] == 50


def test_a_store_without_lessons_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(tmp_path), str(tmp_path / "b.json")]) == 2
    ExperienceStore(tmp_path / "simic" / "experience.sqlite", now=lambda: 1e6).close()
    assert main([str(tmp_path), str(tmp_path / "b.json")]) == 1
    assert "nothing was planted" in capsys.readouterr().err
