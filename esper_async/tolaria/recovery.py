"""What a run can go back to: its newest states in memory, older ones on disk; and how often it did.

Going back alone would repeat what went wrong: after a guard's rollback the run goes on at half the
learning rate and with other random numbers, so that a shuffled loader gives other batches (after
Chowdhery et al., "PaLM" (2022), section 5.1, who went back and skipped the batches before a spike).
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import torch

from esper_async.kasmina.memory import share_bytes
from esper_async.tolaria.checkpoint import CheckpointStore, Written
from esper_async.tolaria.emergency import RATE_FACTOR, Level
from esper_async.tolaria.ring import Ring
from esper_async.tolaria.state_copy import Outline, Spare

RUNGS: tuple[Level, ...] = ("SEVERE", "MAJOR")
"""Of the first rollback, to the newest state, and of a second one, to a state before that."""
Source = Literal["memory", "disk"]
State = dict[str, Any]
Cause = Literal["operator", "guard", "emergency", "hang"]
"""Who sent a run back: a command, a guard of its own, or an emergency that it was told of."""


class WayBack(NamedTuple):
    """A state that a run can go back to, where it was kept, and how long it took to get it."""

    state: dict[str, Any]
    source: Source
    taken_ms: float


class StepBack(NamedTuple):
    """What is to be done about an emergency: its level, where to go back to, and how slowly on.

    `way` is None where there is nowhere to go; `in_vain` are the rollbacks that did not help.
    """

    level: Level
    way: WayBack | None
    rate_factor: float
    in_vain: Sequence[Mapping[str, Any]]


class Recovery:
    """The states of one run, newest last.

    Args:
        store: the checkpoints on disk; None keeps nothing there.
        in_memory: how many of the newest states are kept in memory, too.
        budget_bytes: what they may take together; checkpoints' share of the machine if "auto".
    """

    def __init__(
        self,
        store: CheckpointStore | None,
        *,
        in_memory: int,
        budget_bytes: int | Literal["auto"] = "auto",
    ) -> None:
        self._store = store
        if budget_bytes == "auto":
            budget_bytes = share_bytes("checkpoints", torch.device("cpu"))
        self._ring = Ring(in_memory, budget_bytes)
        self._handed_out: set[int] = set()

    @property
    def bytes_in_memory(self) -> int:
        """What the states in memory take."""
        return self._ring.size_bytes

    def save(self, step: int, state: Callable[[], Mapping[str, Any]]) -> None:
        """Keep a copy of what `state` returns; on disk it is written beside the caller.

        Raises:
            CheckpointError: the write before this one failed.
        """
        if self._store is None and not self._ring.may_hold(0):
            return
        outline = Outline(state())
        size_bytes = outline.size_bytes
        in_memory = self._ring.may_hold(size_bytes)
        dropped = self._ring.make_room(size_bytes)
        spare = [kept.copied for kept in dropped if kept.step not in self._handed_out]
        self._handed_out -= {kept.step for kept in dropped}
        if self._store is None and not in_memory:
            return
        if spare:
            self.wait()  # nobody reads any more what is overwritten now
        started = time.perf_counter()
        copied = outline.copy(Spare(*spare))
        copy_ms = 1e3 * (time.perf_counter() - started)
        if in_memory:
            self._ring.keep(step, copied, size_bytes)
        if self._store is not None:
            self._store.save(step, copied.state, copy_ms=copy_ms)

    def take_written(self) -> list[Written]:
        """Return the checkpoints that were found written since the last call."""
        return [] if self._store is None else self._store.take_written()

    def newest(self, rollback: Mapping[str, Any] | None) -> tuple[State | None, bool]:
        """Return the newest state on disk, and whether `rollback` to it may not have been done.

        `rollback` is the journal's last one: what was saved before it and past its goal is dropped.

        Raises:
            UnreadableCheckpointError: there are checkpoints, and none can be read.
        """
        loaded = None if self._store is None else self._store.load_latest()
        if self._store is None or loaded is None:
            return None, False
        if rollback is None or loaded.state["journal_seq"] >= rollback["seq"]:
            return loaded.state, False
        self._store.drop_after(rollback["to_step"])
        loaded = self._store.load_latest()
        return (None, False) if loaded is None else (loaded.state, True)

    def before(self, step: int, *, first: Source = "memory") -> WayBack | None:
        """Return the newest state from before `step`, from `first` where it is there.

        It may be asked for again, so that whoever loads it changes nothing in it. What is loaded
        may go on with its tensors: they are never overwritten by a later copy.

        Raises:
            CheckpointError: the write under way failed.
        """
        started = time.perf_counter()
        sources: tuple[Source, Source] = ("memory", "disk")
        for source in sources if first == "memory" else reversed(sources):
            found = self._in_memory(step) if source == "memory" else self._on_disk(step)
            if found is not None:
                return WayBack(found, source, 1e3 * (time.perf_counter() - started))
        return None

    def step_back(
        self, rollbacks: Sequence[Mapping[str, Any]], boundary: int, step: int, *, least: Level
    ) -> StepBack:
        """Return how a run at `boundary` and `step` goes back: what was in vain is escalated.

        `rollbacks` are those of emergencies, oldest first. Where the last ones did not help, the
        next goes one rung higher, to before the state they went to; past the last rung there is no
        way. `least` is the level of what is the matter.

        Raises:
            CheckpointError: the write under way failed.
        """
        stuck = times_stuck(rollbacks, boundary)
        in_vain = rollbacks[len(rollbacks) - stuck :]
        rung = min(max(stuck, RUNGS.index(least)), len(RUNGS) - 1)
        way = None
        if stuck < len(RUNGS):
            first: Source = "disk" if RUNGS[rung] == "MAJOR" else "memory"
            way = self.before(in_vain[-1]["to_step"] if stuck else step, first=first)
        return StepBack(RUNGS[rung], way, RATE_FACTOR ** (rung + 1), in_vain)

    def _in_memory(self, step: int) -> State | None:
        found = self._ring.before(step)
        if found is None:
            return None
        self._handed_out.add(found.step)
        return found.copied.state

    def _on_disk(self, step: int) -> State | None:
        loaded = None if self._store is None else self._store.load_before(step)
        return None if loaded is None else loaded.state

    def boundaries(self, history: Sequence[Mapping[str, Any]]) -> list[int]:
        """Return the boundaries whose states are kept, oldest first; `history` has their steps.

        A state from between two boundaries counts as the earlier one's.
        """
        steps = set(self._ring.steps)
        if self._store is not None:
            steps |= set(self._store.steps())
        passed = [(entry["step"], entry["boundary"]) for entry in history]
        return [max((b for at, b in passed if at <= step), default=0) for step in sorted(steps)]

    def wait(self) -> None:
        """Wait for the write under way.

        Raises:
            CheckpointError: it failed.
        """
        if self._store is not None:
            self._store.wait()

    def drop_after(self, step: int) -> None:
        """Forget the states from after `step`: a crash from here on resumes from before it."""
        self._ring.drop_after(step)
        if self._store is not None:
            self._store.drop_after(step)


def times_stuck(rollbacks: Sequence[Mapping[str, Any]], boundary: int) -> int:
    """Return how many of the last rollbacks were in vain: the run got no farther than before.

    `rollbacks` are those of guards, oldest first; `boundary` is where one has fired now.
    """
    stuck = 0
    for rollback in rollbacks:
        stuck = stuck + 1 if rollback["boundary"] >= boundary else 0
    return stuck


def remedy(in_vain: Sequence[Mapping[str, Any]], step: int) -> str:
    """Say what can be done about a loss that the run cannot put right itself.

    `in_vain` are the rollbacks that did not help; `step` is where the run is.
    """
    if not in_vain:
        early = "look at the data and the loss" if step <= 1 else "lower the learning rate"
        return f"{early}, or clip the gradients (Task.clip_norm): there is no state to go back to"
    places = " and ".join(str(rollback["to_boundary"]) for rollback in in_vain)
    rate = in_vain[-1]["rate_factor"]
    return (
        f"the run went back to boundary {places} and on at {rate:g} of the learning rate, in vain; "
        f"lower it from the start, clip the gradients (Task.clip_norm), or look at the data"
    )
