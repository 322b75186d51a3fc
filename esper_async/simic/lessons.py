"""What stored experiences teach about placements: features, and what each one brought."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from esper_async.leyline import SeedOperation
from esper_async.simic.experience import Experience
from esper_async.tamiyo.offer import PLACEMENT_WIDTH, Floats
from esper_async.tamiyo.policies.learned import check_features


@dataclass(frozen=True, slots=True, eq=False)
class Lessons:
    """Placements that were tried and what they brought.

    Attributes:
        features: (N, W).
        outcomes: (N,), in nats (or the loss's unit).
        runs: the runs they are of.
        skipped: experiences that teach nothing about a placement, counted by why.
    """

    features: Floats
    outcomes: Floats
    runs: frozenset[str]
    skipped: Counter[str]

    def __len__(self) -> int:
        return len(self.outcomes)


def lessons_from(experiences: Iterable[Experience]) -> Lessons:
    """Take what can be learned from; a command counts once, however often it is told.

    What a placement brought is its benefit against the twin where that was measured, else its clean
    contribution, as the `bandit` policy learns within a run.

    Raises:
        FeatureVersionError: some of it has features of another version.
    """
    rows: dict[tuple[str, str], tuple[list[float], float]] = {}
    skipped: Counter[str] = Counter()
    for each in experiences:
        command = each.step.decision.command
        if command.seed.operation != SeedOperation.SEED_OPERATION_GERMINATE:
            skipped["plants nothing"] += 1
            continue
        features, outcome = _features(each), _outcome(each)
        if features is None:
            skipped["its features were not recorded"] += 1
        elif outcome is None:
            skipped["what it brought was not measured"] += 1
        else:
            rows[each.step.decision.run_id, command.command_id] = (features, outcome)
    return Lessons(
        np.array([features for features, _ in rows.values()]).reshape(-1, PLACEMENT_WIDTH),
        np.array([outcome for _, outcome in rows.values()], dtype=np.float64),
        frozenset(run for run, _ in rows),
        skipped,
    )


def _features(each: Experience) -> list[float] | None:
    """Return the features of the candidate that the report is about."""
    decision = each.step.decision
    for placement in decision.placements:
        check_features(placement.version)
    if not each.step.reports:
        return None
    told = each.step.reports[-1]
    candidates = decision.command.seed.candidates
    if len(decision.placements) != len(candidates):
        return None
    for candidate, placement in zip(candidates, decision.placements, strict=True):
        if (candidate.site, candidate.blueprint_id) == (told.site, told.blueprint_id):
            return list(placement.values)
    return None


def _outcome(each: Experience) -> float | None:
    evidence = each.evidence
    if evidence.benefit is not None:
        return evidence.benefit.mean
    return None if evidence.contribution is None else evidence.contribution.mean
