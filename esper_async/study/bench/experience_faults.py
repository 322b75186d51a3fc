"""Stores of experience that are built wrongly, for the benchmark `experience` to catch."""

import random
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from google.protobuf.message import Message

from esper_async.simic.experience import Experience
from esper_async.simic.reward import Reward
from esper_async.simic.store import ExperienceStore, Intake


class Hoarding(ExperienceStore):
    """Keeps all steps in memory, read when it is opened, for each term of the reward anew."""

    def __init__(self, path: Path, *, now: Callable[[], float]) -> None:
        super().__init__(path, now=now)
        self._all = [self.experiences(limit=-1) for _ in fields(Reward)]


class ReadingAll(ExperienceStore):
    """Reads everything for each sample, and draws from that."""

    def sample(self, count: int, source: random.Random) -> list[Experience]:
        """Draw as slowly as can be."""
        every = [each for _, each in self.experiences(limit=-1) if each.step.reports]
        return source.sample(every, count)


class Reopening(ExperienceStore):
    """Opens its file anew for every message."""

    def __init__(self, path: Path, *, now: Callable[[], float]) -> None:
        super().__init__(path, now=now)
        self._path = path

    def take_many(self, arrived: Sequence[tuple[Message, str]]) -> list[Intake]:
        """Store one after the other, each in a store of its own."""
        results = []
        for each in arrived:
            other = ExperienceStore(self._path, now=self._now)
            results += other.take_many([each])
            other.close()
        return results


FAULTS: dict[str, type[ExperienceStore]] = {"hoarding": Hoarding, "reading-all": ReadingAll}
"""Those that a child measures, by name."""
