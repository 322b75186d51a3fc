"""How good a run's risk predictions were: levels as told, against what happened afterwards.

It reads a run's records and nothing else, and never imports torch. Something is said to have gone
wrong at a boundary if, within the next few, the run met an emergency or a rollback, a seed was
removed after blending, or the validation loss rose by more than a share of itself.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

HORIZON_BOUNDARIES = 3
LOSS_RISE = 0.25
_LATE_STAGES = ("BLENDING", "SHADOWING", "PROBATIONARY")
_LEVELS = ("GREEN", "YELLOW", "ORANGE", "RED", "CRITICAL")
Record = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class LevelCount:
    """How often a level was told, and how often something went wrong soon after."""

    level: str
    told: int
    went_wrong: int


@dataclass(frozen=True, slots=True)
class RiskScore:
    """The predictions of a run, scored.

    `brier` is the mean squared error of the score as a probability; `base_brier` that of always
    saying how often things went wrong. `auc` is the probability that a boundary before trouble
    scored higher than one without; None where there was no trouble, or nothing else.
    """

    boundaries: int
    went_wrong: int
    brier: float | None
    base_brier: float | None
    auc: float | None
    levels: tuple[LevelCount, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


def score_risk(records: Iterable[Record]) -> RiskScore:
    """Score a run's predictions from its records, oldest first."""
    told = list(records)
    troubles = _troubles(told)
    predictions: dict[int, tuple[str, float]] = {}
    for record in told:
        if record["kind"] == "decision" and record.get("risk"):
            risk = record["risk"]
            predictions[record["boundary"]] = (risk["level"], risk["score"])
    outcomes = {
        boundary: any(boundary <= at < boundary + HORIZON_BOUNDARIES for at in troubles)
        for boundary in predictions
    }
    wrong = sum(outcomes.values())
    scores = [(predictions[boundary][1], outcomes[boundary]) for boundary in predictions]
    return RiskScore(
        boundaries=len(predictions),
        went_wrong=wrong,
        brier=_brier(scores),
        base_brier=_brier([(wrong / len(scores), bad) for _, bad in scores]) if scores else None,
        auc=_auc(scores),
        levels=tuple(_count(level, predictions, outcomes) for level in _LEVELS),
    )


def _troubles(records: Sequence[Record]) -> set[int]:
    """Return the boundaries at which something went wrong."""
    found: set[int] = set()
    previous: float | None = None
    for record in records:
        kind, boundary = record["kind"], record["boundary"]
        if kind in ("emergency", "rollback"):
            found.add(boundary)
        elif kind == "transition":
            late = record["from_stage"] in _LATE_STAGES
            if late and record["to_stage"] == "CULLED":
                found.add(boundary)
        elif kind == "boundary":
            loss = record["metrics"].get("validation_loss")
            if loss is None or (previous is not None and loss - previous > LOSS_RISE * previous):
                found.add(boundary)
            previous = loss if loss is not None else previous
    return found


def _count(
    level: str, predictions: Mapping[int, tuple[str, float]], outcomes: Mapping[int, bool]
) -> LevelCount:
    at = [boundary for boundary, (told, _) in predictions.items() if told == level]
    return LevelCount(level, len(at), sum(outcomes[boundary] for boundary in at))


def _brier(scores: Sequence[tuple[float, bool]]) -> float | None:
    if not scores:
        return None
    return math.fsum((score - bad) ** 2 for score, bad in scores) / len(scores)


def _auc(scores: Sequence[tuple[float, bool]]) -> float | None:
    bad = [score for score, wrong in scores if wrong]
    good = [score for score, wrong in scores if not wrong]
    if not bad or not good:
        return None
    won = sum((b > g) + 0.5 * (b == g) for b in bad for g in good)
    return won / (len(bad) * len(good))


def score_text(score: RiskScore) -> list[str]:
    """Return the score as lines for a person."""
    if not score.boundaries:
        return ["no risk was told: the run has no decision with an assessment"]
    lines = [
        f"{score.boundaries} boundaries, {score.went_wrong} of them within "
        f"{HORIZON_BOUNDARIES} boundaries of trouble"
    ]
    lines += [
        f"  {count.level:<8} told {count.told:>4}, trouble followed {count.went_wrong}"
        for count in score.levels
        if count.told
    ]
    lines.append(
        f"Brier score {_number(score.brier)} (always the base rate: {_number(score.base_brier)}), "
        f"AUC {_number(score.auc)}"
    )
    return lines


def _number(value: float | None) -> str:
    return "not measured" if value is None else f"{value:.3f}"
