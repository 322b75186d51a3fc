"""An experience: one step with what may be rewarded of it, and its reward by today's formula."""

from dataclasses import dataclass

from esper_async.simic.evidence import Evidence, evidence_of
from esper_async.simic.reward import FORMULA_VERSION, Reward, reward
from esper_async.simic.trajectory import Step, Trajectory


@dataclass(frozen=True, slots=True)
class Experience:
    """A step, and its reward with the version of the formula that computed it."""

    step: Step
    evidence: Evidence
    reward: Reward
    reward_version: int


def experience_of(step: Step, *, terminal_gain: float | None = None) -> Experience:
    """Compute a step's reward; `terminal_gain` belongs to the last step of a run alone."""
    evidence = evidence_of(step.decision, step.reports, terminal_gain=terminal_gain)
    return Experience(step, evidence, reward(evidence), FORMULA_VERSION)


def experiences_of(trajectory: Trajectory) -> tuple[Experience, ...]:
    """Compute the rewards of a run's steps, in order."""
    last = len(trajectory.steps) - 1
    return tuple(
        experience_of(step, terminal_gain=trajectory.terminal_gain if place == last else None)
        for place, step in enumerate(trajectory.steps)
    )
