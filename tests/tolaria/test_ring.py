"""The ring in memory: the newest states, never more of them or of their bytes than allowed."""

from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from esper_async.tolaria.ring import Ring
from esper_async.tolaria.state_copy import StateCopy


class Rings(RuleBasedStateMachine):
    """Against a list that is cut at its old end until it is allowed."""

    @initialize(most=st.integers(0, 4), budget=st.integers(0, 10))
    def begin(self, most: int, budget: int) -> None:
        self.most, self.budget = most, budget
        self.ring = Ring(most, budget)
        self.step = 0
        self.kept: list[tuple[int, int]] = []

    @rule(size=st.integers(0, 6))
    def save(self, size: int) -> None:
        self.step += 1
        before = self.ring.steps
        dropped = self.ring.make_room(size)
        assert [kept.step for kept in dropped] == before[: len(dropped)]
        self.kept.append((self.step, size))
        while len(self.kept) > self.most or sum(size for _, size in self.kept) > self.budget:
            self.kept.pop(0)
        if self.ring.may_hold(size):
            assert self.ring.size_bytes + size <= self.budget, "nor while the copy is made"
            self.ring.keep(self.step, StateCopy({"step": self.step}, ()), size)
            assert self.ring.steps[-1] == self.step

    @rule(size=st.integers(0, 11))
    def save_without_room(self, size: int) -> None:
        held = self.ring.steps
        if len(held) >= self.most or self.ring.size_bytes + size > self.budget:
            with pytest.raises(ValueError, match="no room"):
                self.ring.keep(self.step + 1, StateCopy({}, ()), size)
        assert self.ring.steps == held

    @rule(back=st.integers(0, 5))
    def go_back(self, back: int) -> None:
        self.step = max(self.step - back, 0)
        self.ring.drop_after(self.step)
        self.kept = [entry for entry in self.kept if entry[0] <= self.step]

    @rule(step=st.integers(0, 40))
    def ask(self, step: int) -> None:
        older = [at for at in self.ring.steps if at < step]
        found = self.ring.before(step)
        assert (None if found is None else found.step) == (older[-1] if older else None)

    @invariant()
    def it_is_the_newest_that_are_allowed(self) -> None:
        assert len(self.ring.steps) <= self.most
        assert self.ring.size_bytes <= self.budget
        assert self.ring.steps == [step for step, _ in self.kept]


TestRings = Rings.TestCase


def test_an_older_state_than_the_newest_is_refused() -> None:
    ring = Ring(3, 100)
    state: dict[str, Any] = {}
    ring.keep(5, state, 1)
    ring.keep(5, state, 1)
    with pytest.raises(ValueError, match="before step 5"):
        ring.keep(4, state, 1)
