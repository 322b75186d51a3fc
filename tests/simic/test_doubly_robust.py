"""Doubly robust estimates: by hand, and in worlds whose truth is known."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from esper_async.simic import ExperienceStore
from esper_async.simic.doubly_robust import OverlapLimits, difference, reward_models
from esper_async.simic.learn import main as learn
from esper_async.simic.trials import Trial
from esper_async.simic.validate import even, judged, main
from esper_async.tamiyo.offer import PLACEMENT_WIDTH
from tests.simic.experienced import experienced
from tests.simic.test_awr import planted

ANY = OverlapLimits(runs=2, effective=0.0, share=0.0, weight=float("inf"), mean_weight=(0, 1e9))
TRUTH = np.array([0.5, 2.0, 1.0, -0.5, 1.0, -1.0, 0.0, 0.5])
Features = np.ndarray


def always(place: int) -> Callable[[Features], Features]:
    return lambda features: (np.arange(len(features)) == place).astype(np.float64)


def largest_first(features: Features) -> Features:
    """Seven times of ten the placement with the largest second feature."""
    found = np.full(len(features), 0.3 / len(features))
    found[features[:, 1].argmax()] += 0.7
    return found


def world(
    seed: int, runs: int = 40, *, curved: bool = False, told_as: float = 1.0
) -> tuple[list[Trial], float]:
    """Two trials a run, drawn with a leaning, and what `largest_first` truly earns above even.

    `curved` rewards are no linear function of the features; propensities are told `told_as` times
    too large.
    """
    source = np.random.default_rng(seed)
    trials, truth = [], []
    for number in range(2 * runs):
        features = np.hstack([np.ones((6, 1)), source.random((6, PLACEMENT_WIDTH - 1))])
        worth = features @ TRUTH
        if curved:
            worth = worth + 2.0 * np.sin(9.0 * features[:, 1])
        chances = 0.5 / 6 + 0.5 * features[:, 2] / features[:, 2].sum()
        chosen = int(source.choice(6, p=chances))
        reward = float(worth[chosen] + source.normal(0.0, 0.3))
        propensity = float(chances[chosen]) * told_as
        trials.append(Trial(f"run{number // 2}", features, chosen, propensity, reward))
        truth.append(float((largest_first(features) - 1 / 6) @ worth))
    return trials, float(np.mean(truth))


def test_without_a_model_it_is_the_weighted_reward() -> None:
    """Features are all 0, so q is. d = (1 - .5) / .5 · 1 and (0 - .5) / .5 · 3."""
    blank = np.zeros((2, PLACEMENT_WIDTH))
    trials = [Trial("a", blank, 0, 0.5, 1.0), Trial("b", blank, 1, 0.5, 3.0)]
    found = difference(trials, always(0), even, limits=ANY)
    assert found.value == pytest.approx((1.0 - 3.0) / 2)
    assert (found.direct, found.largest_weight) == (0.0, 2.0)
    assert found.effective == pytest.approx(1.0)  # weights 2 and 0: 2² / 2²
    assert (found.low, found.high) == pytest.approx((-3.0, 1.0))


def test_the_model_judges_what_it_has_not_seen() -> None:
    """Two folds of one trial each: q of the first is ridge on the second, 1·4 / (1 + 1)."""
    one = np.zeros((1, PLACEMENT_WIDTH))
    one[0, 0] = 1.0
    trials = [Trial("a", one, 0, 1.0, 100.0), Trial("b", one, 0, 1.0, 4.0)]
    models = reward_models(trials, np.array([0, 1]))
    assert models[:, 0] == pytest.approx([2.0, 50.0])


def test_a_policy_is_no_better_than_itself() -> None:
    found = difference(world(1)[0], largest_first, largest_first)
    assert (found.value, found.low, found.high) == (0.0, 0.0, 0.0)


def mean_error(**options: object) -> tuple[float, float]:
    """Return the mean errors of the estimate and of the model alone, over many worlds."""
    errors = []
    for seed in range(30):
        trials, truth = world(seed, **options)  # type: ignore[arg-type]
        found = difference(trials, largest_first, even, limits=ANY)
        errors.append((found.value - truth, found.direct - truth))
    robust, direct = np.mean(errors, axis=0)
    return float(robust), float(direct)


def test_where_the_model_is_wrong_propensities_make_it_right() -> None:
    robust, direct = mean_error(curved=True)
    assert abs(robust) < 0.12 < abs(direct)


def test_where_propensities_are_wrong_the_model_makes_it_right() -> None:
    robust, _ = mean_error(told_as=0.5, runs=150)
    assert abs(robust) < 0.06


def test_the_interval_holds_about_as_often_as_it_says() -> None:
    held = []
    for seed in range(60):
        trials, truth = world(seed, curved=True)
        found = difference(trials, largest_first, even)
        held.append(found.low <= truth <= found.high)
    assert np.mean(held) >= 0.85


def test_what_was_hardly_ever_done_is_refused() -> None:
    trials, _ = world(3)
    trials[7] = dataclasses.replace(trials[7], propensity=1e-4)
    found = difference(trials, largest_first, even)
    assert not found.passes
    assert any("100 is the limit" in why for why in found.refusals)
    assert any("hardly ever did" in why for why in found.refusals)


def test_what_was_never_drawn_is_refused_though_no_trial_weighs_much() -> None:
    """Each trial weighs the same, 0.1: they seem to count in full."""
    trials = [dataclasses.replace(each, propensity=0.5) for each in world(3)[0]]

    def elsewhere(features: Features) -> Features:
        return np.full(len(features), 0.05)  # the rest of it where no trial was

    found = difference(trials, elsewhere, even)
    assert found.effective == pytest.approx(found.trials)
    assert any("weigh 0.10 on average" in why for why in found.refusals)


def test_probabilities_that_were_told_wrong_are_noticed() -> None:
    found = difference(world(3, told_as=0.3)[0], largest_first, even)
    assert any("not with the probability that was recorded" in why for why in found.refusals)


@pytest.mark.parametrize("runs", [0, 1, 9])
def test_few_runs_are_refused(runs: int) -> None:
    trials = [each for each in world(3)[0] if int(each.run[3:]) < runs]
    found = difference(trials, even, even)
    assert not found.passes
    assert f"{runs} runs, 10 are needed" in found.refusals


def test_what_is_worse_does_not_pass_and_what_is_better_does() -> None:
    trials, truth = world(4, runs=100)
    assert truth > 0.2
    assert difference(trials, largest_first, even).passes
    assert not difference(trials, even, largest_first).passes


def test_runs_that_taught_do_not_judge() -> None:
    trials, _ = world(4, runs=3)
    assert {each.run for each in judged(trials, ["run1"])} == {"run0", "run2"}


@pytest.mark.parametrize("helps", [True, False])
def test_by_command_what_was_learned_is_judged_by_runs_that_were_kept_back(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, helps: bool
) -> None:
    """The third blueprint helps; an ensemble that was turned round avoids it."""
    state, output, record = tmp_path / "state", tmp_path / "awr.json", tmp_path / "record.json"
    experienced(state)
    assert learn([str(state), str(output), "--keep-back", "0.5"]) == 0
    runs = json.loads(output.read_text())["lineage"]["runs"]
    assert 60 < len(runs) < 120
    if not helps:
        _turn_round(output)
    capsys.readouterr()
    code = main([str(state), str(output), "--record", str(record)])
    told_record = json.loads(capsys.readouterr().out)
    assert told_record == json.loads(record.read_text())
    assert told_record["runs"] == 180 - len(runs)
    assert told_record["passes"] is helps
    assert code == (0 if helps else 1)
    assert main([str(state), str(output), "--active", str(output)]) == 0
    assert main([str(tmp_path / "nowhere"), str(output)]) == 2


def test_where_every_run_taught_nothing_is_measured_and_nothing_passes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = ExperienceStore(tmp_path / "simic" / "experience.sqlite", now=lambda: 1e6)
    store.take_many([(each, f"{n}") for n, each in enumerate(planted(1, 2, 0.1))])  # type: ignore[misc]
    store.close()
    assert learn([str(tmp_path), str(tmp_path / "awr.json")]) == 0
    capsys.readouterr()
    assert main([str(tmp_path), str(tmp_path / "awr.json")]) == 1
    told = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert (told["passes"], told["value"], told["runs"]) == (False, None, 0)
    assert told["refusals"] == ["0 runs, 10 are needed"]


def _turn_round(path: Path) -> None:
    """Make an ensemble prefer what it avoided."""
    document = json.loads(path.read_text())
    document["weights"] = (-np.array(document["weights"])).tolist()
    path.write_text(json.dumps(document))
