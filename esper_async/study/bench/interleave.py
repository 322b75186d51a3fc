"""Timing two things fairly on a machine that does other things too.

Rounds of A, B, A: slow drift cancels in B / mean(A, A), and A against A shows what the machine's
own noise does to a ratio. When that control is off by more than a percent, no ratio is believed
but one far from its limit.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from esper_async.study.statistics import Estimate, bootstrap_interval

CONTROL_TOLERANCE = 0.01
BEYOND_NOISE = 5.0
"""No noise explains a ratio so many times as far from its limit as the control is off."""


@dataclass(frozen=True, slots=True)
class Lap:
    """How long something took: CPU time of the calling thread and wall-clock, in seconds."""

    cpu_s: float
    wall_s: float


@dataclass(slots=True)
class Stopwatch:
    """Takes laps of the calling thread."""

    laps: list[Lap] = field(default_factory=list)

    @contextmanager
    def lap(self) -> Iterator[None]:
        """Time a block and keep its lap."""
        wall, cpu = time.perf_counter(), time.thread_time()
        yield
        self.laps.append(Lap(time.thread_time() - cpu, time.perf_counter() - wall))


@dataclass(frozen=True, slots=True)
class Comparison:
    """B against A over all rounds, in one clock.

    `ratio` is the median of B / A over rounds with its interval; `control` the same of A / A;
    `baseline_s` and `value_s` are medians of A and B.
    """

    ratio: Estimate
    control: Estimate
    baseline_s: float
    value_s: float

    def doubt(self, limit: float) -> str:
        """Why the ratio is not to be believed; empty if it is, or is far from the limit anyway."""
        off = abs(self.control.value - 1.0)
        explained = BEYOND_NOISE * off
        far = self.ratio.low > limit + explained or self.ratio.high < limit - explained
        if off <= CONTROL_TOLERANCE or far:
            return ""
        return f"A/A control off by {off:.1%}; the machine is too noisy"


@dataclass(slots=True)
class Rounds:
    """Laps of A, B, A, one of each a round."""

    before: list[Lap] = field(default_factory=list)
    middle: list[Lap] = field(default_factory=list)
    after: list[Lap] = field(default_factory=list)

    def add(self, before: Lap, middle: Lap, after: Lap) -> None:
        """Append one round."""
        self.before.append(before)
        self.middle.append(middle)
        self.after.append(after)

    def extend(self, other: "Rounds") -> None:
        """Append all rounds of another."""
        self.before += other.before
        self.middle += other.middle
        self.after += other.after

    def compare(self, clock: str, *, seed: int = 0) -> Comparison:
        """Compare in the clock "cpu_s" or "wall_s".

        Raises:
            ValueError: there are no whole rounds.
        """
        first, value, last = (
            np.array([getattr(lap, clock) for lap in laps])
            for laps in (self.before, self.middle, self.after)
        )
        if not len(first) == len(value) == len(last) > 0:
            raise ValueError(f"unequal laps: {len(first)}, {len(value)}, {len(last)}")
        baseline = (first + last) / 2
        return Comparison(
            _median(value / baseline, seed),
            _median(last / first, seed),
            float(np.median(baseline)),
            float(np.median(value)),
        )


def interleaved(
    baseline: Callable[[], object],
    value: Callable[[], object],
    *,
    rounds: int,
    warmup: int = 2,
    settle: bool = False,
) -> Rounds:
    """Run baseline, value, baseline in turn and time each; the first `warmup` rounds are dropped.

    With `settle` each is run once more, untimed, right before it is timed: else the baseline finds
    caches as another baseline left them, and the value never does.

    Raises:
        ValueError: fewer than one round.
    """
    if rounds < 1:
        raise ValueError(f"rounds must be at least 1, not {rounds}")
    result = Rounds()
    for number in range(warmup + rounds):
        watch = Stopwatch()
        for work in (baseline, value, baseline):
            if settle:
                work()
            with watch.lap():
                work()
        if number >= warmup:
            result.add(*watch.laps)
    return result


def _median(ratios: np.ndarray[tuple[int], np.dtype[np.float64]], seed: int) -> Estimate:
    return bootstrap_interval([ratios], lambda values: float(np.median(values)), seed=seed)
