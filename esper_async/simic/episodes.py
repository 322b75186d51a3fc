"""Runs of the graph policy as episodes: what it saw and did, and what each step brought."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from esper_async.simic.experience import experiences_of
from esper_async.simic.trajectory import Trajectory
from esper_async.tamiyo.network.recorded import (
    RecordedDecision,
    UnusableRecordError,
    recorded,
)

POLICY = "gnn"


@dataclass(frozen=True, slots=True, eq=False)
class Episode:
    """The T steps of one run.

    Attributes:
        run: its name.
        decisions: (T), one a step.
        rewards: (T,), float32.
        cut_off_in: the state behind the last step, of a run whose end nobody has told: what would
            have come is what that state is worth. None where the run ended.
    """

    run: str
    decisions: tuple[RecordedDecision, ...]
    rewards: Tensor
    cut_off_in: RecordedDecision | None

    def __len__(self) -> int:
        return len(self.decisions)


@dataclass(frozen=True, slots=True, eq=False)
class Episodes:
    """Episodes, and the runs that are none, counted by why."""

    found: tuple[Episode, ...]
    skipped: Counter[str]

    def __len__(self) -> int:
        return sum(map(len, self.found))


def episodes_from(trajectories: Iterable[Trajectory]) -> Episodes:
    """Take what the graph policy can learn from, whole runs of its own."""
    found: list[Episode] = []
    skipped: Counter[str] = Counter()
    for trajectory in trajectories:
        try:
            found.append(_episode(trajectory))
        except UnusableRecordError as unusable:
            skipped[str(unusable)] += 1
    return Episodes(tuple(found), skipped)


def _episode(trajectory: Trajectory) -> Episode:
    policies = sorted({step.decision.policy for step in trajectory.steps} - {POLICY})
    if policies:
        raise UnusableRecordError(f"decided by {', '.join(policies)}")
    if trajectory.missing:
        raise UnusableRecordError("some of its decisions have not arrived")
    decisions = tuple(recorded(step.decision) for step in trajectory.steps)
    rewards = [each.reward.total for each in experiences_of(trajectory)]
    if trajectory.terminal_gain is not None and decisions:
        return Episode(trajectory.run, decisions, torch.tensor(rewards), None)
    if len(decisions) < 2:
        raise UnusableRecordError("cut off before its second decision")
    return Episode(trajectory.run, decisions[:-1], torch.tensor(rewards[:-1]), decisions[-1])
