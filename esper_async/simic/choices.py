"""Whether a learner can rely on what a decision says it was drawn from.

The supervisor asks this of every record: it has no numpy.
"""

import math

from esper_async.leyline import LIMITS, ChoiceSet, DecisionRecord, SeedOperation

_FACTS = 4
"""Of each blueprint, as the contract has them."""
_TOLERANCE = 1e-3
"""Probabilities are stored in single precision, thousands of them."""


def choices_problem(decision: DecisionRecord) -> str | None:
    """Say what makes a decision's choices none that can be learned from, or None."""
    told = decision.choices
    return _shape_problem(told) or _probability_problem(told) or _chosen_problem(decision)


def _shape_problem(told: ChoiceSet) -> str | None:
    count = len(told.parameters)
    if count > LIMITS.recorded_choices:
        return f"{count} choices are more than {LIMITS.recorded_choices}"
    if not len(told.site_of) == len(told.blueprint_of) == len(told.probabilities) == count:
        return "its choices are lists of different lengths"
    if len(told.depths) != len(told.sites):
        return f"its choices tell {len(told.depths)} depths of {len(told.sites)} sites"
    if len(told.blueprint_facts) != _FACTS * len(told.blueprints):
        return f"its choices tell {len(told.blueprint_facts)} facts, not {_FACTS} a blueprint"
    if max(told.site_of, default=-1) >= len(told.sites):
        return "a choice names no site"
    if max(told.blueprint_of, default=-1) >= len(told.blueprints):
        return "a choice names no blueprint"
    return None


def _probability_problem(told: ChoiceSet) -> str | None:
    found = [*told.probabilities, told.idle_probability]
    if not all(math.isfinite(each) and each >= 0.0 for each in found):
        return "a choice has a probability that is none"
    total = math.fsum(found)
    if not abs(total - 1.0) <= _TOLERANCE:
        return f"the probabilities of its choices sum to {total:.4f}, not 1"
    return None


def _chosen_problem(decision: DecisionRecord) -> str | None:
    told, command = decision.choices, decision.command
    if not told.HasField("chosen"):
        propensity, drawn = told.idle_probability, None
    elif told.chosen >= len(told.parameters):
        return f"choice {told.chosen} of {len(told.parameters)} was made"
    else:
        propensity = told.probabilities[told.chosen]
        site, blueprint = told.site_of[told.chosen], told.blueprint_of[told.chosen]
        drawn = (told.sites[site], told.blueprints[blueprint])
    if not propensity > 0.0:
        return "what was chosen had no probability"
    if decision.HasField("log_probability"):
        told_probability = math.exp(decision.log_probability)
        if not abs(told_probability - propensity) <= _TOLERANCE * propensity:
            return f"what was chosen had probability {propensity}, and also {told_probability}"
    planted = [(each.site, each.blueprint_id) for each in command.seed.candidates]
    germinates = command.seed.operation == SeedOperation.SEED_OPERATION_GERMINATE
    if (planted if germinates else []) != ([] if drawn is None else [drawn]):
        return "what was chosen is not what the command plants"
    return None
