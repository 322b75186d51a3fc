"""What was tried, beside what could have been: draws with the reward that they brought."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from esper_async.simic.draws import draw_of
from esper_async.simic.experience import Experience
from esper_async.tamiyo.offer import Floats


@dataclass(frozen=True, slots=True, eq=False)
class Trial:
    """One placement that was planted out of P.

    Attributes:
        run: which run it was in; trials of one run are not independent.
        features: of all that was offered (P, W).
        chosen: the place of what was planted.
        propensity: how likely that was under the policy that drew.
        reward: by today's formula.
    """

    run: str
    features: Floats
    chosen: int
    propensity: float
    reward: float


@dataclass(frozen=True, slots=True)
class Trials:
    """Trials in order of arrival, and the experiences that are none, counted by why."""

    trials: tuple[Trial, ...]
    skipped: Counter[str]

    @property
    def runs(self) -> frozenset[str]:
        """The runs they are of."""
        return frozenset(trial.run for trial in self.trials)


def trials_from(experiences: Iterable[Experience]) -> Trials:
    """Take what was drawn and reported on; a command counts once, however often it is told."""
    found: dict[tuple[str, str], Trial] = {}
    skipped: Counter[str] = Counter()
    for each in experiences:
        decision = each.step.decision
        draw = draw_of(decision)
        if draw is None:
            skipped["what it was drawn from was not recorded"] += 1
        elif draw.chosen is None:
            skipped["plants nothing"] += 1
        elif each.evidence.kept is None:
            skipped["it is not settled yet, or was undone"] += 1
        else:
            found[decision.run_id, decision.command.command_id] = Trial(
                decision.run_id,
                draw.offer.features(),
                draw.chosen,
                draw.propensity,
                each.reward.total,
            )
    return Trials(tuple(found.values()), skipped)
