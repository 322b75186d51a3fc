"""Is anything worse than the active policy ever published, whatever was done to the experience?

A world whose truth is known: nine placements, what each brings, runs that drew evenly among them.
The learner and the gate are the real ones; what a fresh run scores is drawn by the truth, instead
of trained. The active policy was learned from untouched experience, a candidate from poisoned one.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from esper_async.simic.awr import learn_ensemble
from esper_async.simic.doubly_robust import difference
from esper_async.simic.trials import Trial
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    wants,
)
from esper_async.study.gate.judging import decided
from esper_async.study.gate.plan import GatePlan
from esper_async.study.gate.replay import Pair, Replay, compared
from esper_async.tamiyo.offer import PLACEMENT_WIDTH, Floats
from esper_async.tamiyo.policies.softmax_ensemble import SoftmaxEnsemble

PUBLISHED_WORSE = "policies from {} published that are worse than the active one"
PUBLISHED_BETTER = "policies from untouched rewards published over one that plants anything"
LEAST_PUBLISHED = 0.8
_TRIALS = {Effort.SHORT: 10, Effort.FULL: 40}
_ONE_IN = 40
"""Of policies as good as the active one, so many have an interval above it by chance."""
_MEMBERS = 4
_RUNS, _PLACEMENTS, _PLANTED, _PAIRS = 60, 9, 3, 12
_SPREAD, _RUN_SPREAD = 0.5, 0.2
_WORSE = 0.02
"""By so much reward a decision a policy is worse, and not the same."""
Poison = Callable[[list[Trial], np.random.Generator], list[Trial]]


def measure(effort: Effort) -> list[Row]:
    """Let poisoned candidates, and good ones, go through the gate."""
    count = _TRIALS[effort]
    rows = []
    for name, poison in POISONS.items():
        told = PUBLISHED_WORSE.format(name)
        if wants(told):
            worse = sum(_published_worse(poison, seed) for seed in range(count))
            rows.append(judged(told, worse, f"of {count}", Bar("at most", count // _ONE_IN)))
    if wants(PUBLISHED_BETTER):
        good = sum(_published_better(seed) for seed in range(count))
        rows.append(
            judged(PUBLISHED_BETTER, good, f"of {count}", Bar("at least", LEAST_PUBLISHED * count))
        )
    return rows


class _World:
    """What each placement is and brings, and the runs that drew among them."""

    def __init__(self, seed: int) -> None:
        self.source = np.random.default_rng(seed)
        self.features = self.source.random((_PLACEMENTS, PLACEMENT_WIDTH))
        self.features[:, 0] = 1.0
        self.truth = self.features @ self.source.normal(0.0, 1.0, PLACEMENT_WIDTH)

    def trials(self) -> list[Trial]:
        """Return what runs told of placements that were drawn evenly."""
        return [self._trial(f"run{number // _PLANTED}") for number in range(_RUNS * _PLANTED)]

    def _trial(self, run: str) -> Trial:
        chosen = int(self.source.integers(_PLACEMENTS))
        reward = float(self.truth[chosen] + self.source.normal(0.0, _SPREAD))
        return Trial(run, self.features, chosen, 1.0 / _PLACEMENTS, reward)

    def worth(self, policy: SoftmaxEnsemble) -> float:
        """What a decision of a policy brings on average."""
        return float(policy.probabilities(self.features) @ self.truth)

    def replay(self, new: SoftmaxEnsemble, active: SoftmaxEnsemble) -> Replay:
        """Return what fresh runs of the same seeds say of two policies."""
        plan = GatePlan.model_validate({
            "name": "world", "primary": "worth", "runs": _PAIRS, "resamples": 200,
            "tasks": {"world": {"task": "world:make", "epochs": 1}},
        })  # fmt: skip
        of_seeds = self.source.normal(0.0, 1.0, _PAIRS)
        scores = [of_seeds + self._scores(policy) for policy in (new, active)]
        pairs = [Pair("world", seed, *map(float, each)) for seed, each in
                 zip(plan.seeds, zip(*scores, strict=True), strict=True)]  # fmt: skip
        return compared(plan, pairs)

    def _scores(self, policy: SoftmaxEnsemble) -> Floats:
        chances = policy.probabilities(self.features)
        planted = self.source.choice(self.truth, size=(_PAIRS, _PLANTED), p=chances)
        noise = self.source.normal(0.0, _RUN_SPREAD, _PAIRS)
        scores: Floats = planted.mean(axis=1) + noise
        return scores

    def publishes(
        self, new: SoftmaxEnsemble, active: SoftmaxEnsemble, kept_back: list[Trial]
    ) -> bool:
        """Whether the gate lets a policy out."""
        estimate = difference(kept_back, new.probabilities, active.probabilities)
        reasons, _ = decided([], estimate, lambda: self.replay(new, active))
        return not reasons


def _published_worse(poison: Poison, seed: int) -> bool:
    world = _World(seed)
    active = learn_ensemble(world.trials(), seed=seed, members=_MEMBERS)
    told = poison(world.trials(), world.source)
    middle = len(told) // 2
    new = learn_ensemble(told[:middle], seed=seed, members=_MEMBERS)
    published = world.publishes(new, active, told[middle:])
    return published and world.worth(new) < world.worth(active) - _WORSE


def _published_better(seed: int) -> bool:
    world = _World(seed)
    told = world.trials()
    middle = len(told) // 2
    new = learn_ensemble(told[:middle], seed=seed, members=_MEMBERS)
    return world.publishes(new, SoftmaxEnsemble.blank(), told[middle:])


def _corrupted(trials: list[Trial], source: np.random.Generator) -> list[Trial]:
    wrong = source.random(len(trials)) < 0.05
    return [
        replace(trial, reward=float(source.choice((-10.0, 10.0)))) if bad else trial
        for trial, bad in zip(trials, wrong, strict=True)
    ]


def _told_again(trials: list[Trial], source: np.random.Generator) -> list[Trial]:
    """Tell a tenth of the trials ten times: duplicates that came past the store."""
    often = source.random(len(trials)) < 0.1
    pairs = zip(trials, often, strict=True)
    return [trial for trial, again in pairs for _ in range(10 if again else 1)]


def _noise(trials: list[Trial], source: np.random.Generator) -> list[Trial]:
    return [replace(trial, reward=float(source.normal(0.0, _SPREAD))) for trial in trials]


def _shuffled(trials: list[Trial], source: np.random.Generator) -> list[Trial]:
    order = source.permutation(len(trials))
    return [replace(trial, reward=trials[place].reward) for trial, place in zip(trials, order)]  # noqa: B905


POISONS: Mapping[str, Poison] = {
    "5 % corrupted rewards": _corrupted,
    "duplicated reports": _told_again,
    "a task of pure noise": _noise,
    "shuffled rewards": _shuffled,
}


def _asks_nothing(faults: Any, estimate: Any, replayed: Any) -> tuple[list[str], None]:
    return [], None


def _asks_no_runs(faults: Any, estimate: Any, replayed: Any) -> tuple[list[str], None]:
    return ([] if estimate.refusals or estimate.high >= 0.0 else ["surely worse"]), None


BENCHMARK = Benchmark(
    name="gate",
    question="is anything worse than the active policy ever published?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "asks nothing",
            "what was learned is published",
            partial(replaced, f"{__name__}.decided", _asks_nothing),
            fails=tuple(PUBLISHED_WORSE.format(name) for name in POISONS),
        ),
        Mutant(
            "asks no fresh runs",
            "what is not surely worse by runs that were made is published",
            partial(replaced, f"{__name__}.decided", _asks_no_runs),
            fails=(PUBLISHED_WORSE.format("shuffled rewards"),),
        ),
        Mutant(
            "publishes nothing",
            "fresh runs are never good enough",
            partial(replaced, "esper_async.study.gate.replay.Replay.no_worse",
                    property(lambda self: False)),
            fails=(PUBLISHED_BETTER,),
        ),
    ),
)  # fmt: skip
