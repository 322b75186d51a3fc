"""The breaker against a naive model: the rules written down as plainly as they can be."""

import asyncio
from dataclasses import dataclass, field
from typing import Literal

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from esper_async.runtime.breaker import BreakerOpen, BreakerPolicy, CircuitBreaker
from esper_async.runtime.clock import FakeClock

Outcome = Literal["answers", "fails", "is slow", "is cancelled", "is neutral"]
OUTCOMES: tuple[Outcome, ...] = ("answers", "fails", "is slow", "is cancelled", "is neutral")
POLICY = BreakerPolicy(
    failures=3, failure_ratio=0.5, minimum_calls=5, window_s=20.0, open_s=10.0, probes=2, slow_s=4.0
)


class DownError(Exception):
    """The other side is down."""


class NeutralError(Exception):
    """The other side is there, and does not like the question."""


@dataclass
class Naive:
    """Every call of this closed spell is kept; a spell is the time between two changes of state."""

    state: Literal["closed", "open", "half_open"] = "closed"
    spell: int = 0
    since: float = 0.0
    ended: list[tuple[float, bool]] = field(default_factory=list)
    probes_out: int = 0
    probes_passed: int = 0
    by_hand: bool = False

    def enter(self, state: Literal["closed", "open", "half_open"], now: float) -> None:
        self.state, self.since = state, now
        self.spell += 1
        self.ended, self.probes_out, self.probes_passed = [], 0, 0

    def admits(self, now: float) -> bool:
        if self.state == "closed":
            return True
        waited = not self.by_hand and now - self.since >= POLICY.open_s
        if waited:
            self.enter("half_open", now)
        elif self.state == "open" or self.probes_out + self.probes_passed >= POLICY.probes:
            return False
        self.probes_out += 1
        return True

    def hear(self, spell: int, outcome: Outcome, now: float) -> None:
        if spell != self.spell or self.state == "open":
            return
        failed = outcome in ("fails", "is slow")
        if self.state == "half_open":
            self.probes_out -= 1
            if failed:
                self.enter("open", now)
            elif outcome != "is cancelled":
                self.probes_passed += 1
                if self.probes_passed == POLICY.probes:
                    self.enter("closed", now)
        elif outcome in ("answers", "fails", "is slow"):
            self.ended.append((now, failed))
            tenth = POLICY.window_s / 10
            recent = [bad for at, bad in self.ended if at // tenth > now // tenth - 10]
            row = [bad for _, bad in self.ended][-POLICY.failures :]
            share = len(recent) >= POLICY.minimum_calls and sum(recent) / len(recent) >= 0.5
            if failed and (share or (len(row) == POLICY.failures and all(row))):
                self.enter("open", now)


@dataclass(frozen=True)
class OpenCall:
    """A call that was admitted and has not ended."""

    task: asyncio.Task[None]
    told: asyncio.Future[Outcome]
    spell: int
    began: float


class Comparison(RuleBasedStateMachine):
    """Calls of both kinds begin and end in any order, while time goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = FakeClock()
        self.breaker = CircuitBreaker(
            "x", POLICY, clock=self.clock, is_failure=lambda e: not isinstance(e, NeutralError)
        )
        self.model = Naive()
        self.loop = asyncio.new_event_loop()
        self.open_calls: list[OpenCall] = []

    def teardown(self) -> None:
        for call in self.open_calls:
            call.task.cancel()
            self.loop.run_until_complete(asyncio.wait([call.task]))
        self.loop.close()

    @rule(seconds=st.integers(1, 12))
    def wait(self, seconds: int) -> None:
        self.clock.advance(float(seconds))

    @rule(outcome=st.sampled_from(OUTCOMES))
    def call(self, outcome: Outcome) -> None:
        def work() -> None:
            if outcome == "is slow":
                self.clock.advance(5.0)
            _raise(outcome)

        admitted = self.model.admits(self.clock.monotonic())
        spell = self.model.spell
        try:
            self.breaker.call_sync(work)
        except BreakerOpen:
            assert not admitted
            return
        except (DownError, NeutralError, KeyboardInterrupt):
            pass
        assert admitted
        self.model.hear(spell, outcome, self.clock.monotonic())

    @rule()
    @precondition(lambda self: len(self.open_calls) < 5)
    def begin(self) -> None:
        told: asyncio.Future[Outcome] = self.loop.create_future()

        async def work() -> None:
            _raise(await told)

        admitted = self.model.admits(self.clock.monotonic())
        task = self.loop.create_task(self.breaker.call(work))
        self.loop.run_until_complete(asyncio.sleep(0))
        refused = task.done() and isinstance(task.exception(), BreakerOpen)
        assert admitted != refused
        if not refused:
            self.open_calls.append(OpenCall(task, told, self.model.spell, self.clock.monotonic()))

    @rule(number=st.integers(0, 4), outcome=st.sampled_from(("answers", "fails", "is neutral")))
    @precondition(lambda self: self.open_calls)
    def end(self, number: int, outcome: Outcome) -> None:
        call = self.open_calls.pop(number % len(self.open_calls))
        late = outcome == "answers" and self.clock.monotonic() - call.began > 4.0
        call.told.set_result(outcome)
        self.loop.run_until_complete(asyncio.wait([call.task]))
        call.task.exception()
        heard: Outcome = "is slow" if late else outcome
        self.model.hear(call.spell, heard, self.clock.monotonic())

    @rule(number=st.integers(0, 4))
    @precondition(lambda self: self.open_calls)
    def cancel(self, number: int) -> None:
        call = self.open_calls.pop(number % len(self.open_calls))
        call.task.cancel()
        self.loop.run_until_complete(asyncio.wait([call.task]))
        assert call.task.cancelled()
        self.model.hear(call.spell, "is cancelled", self.clock.monotonic())

    @rule()
    def isolate(self) -> None:
        self.breaker.isolate()
        self.model.enter("open", self.clock.monotonic())
        self.model.by_hand = True

    @rule()
    def reconsider(self) -> None:
        self.breaker.reconsider()
        if self.model.state == "open":
            self.model.since = self.clock.monotonic() - POLICY.open_s

    @rule()
    def restore(self) -> None:
        self.breaker.restore()
        self.model.enter("closed", self.clock.monotonic())
        self.model.by_hand = False

    @invariant()
    def they_are_in_the_same_state(self) -> None:
        assert self.breaker.state == self.model.state
        assert self.breaker.isolated == self.model.by_hand


def _raise(outcome: Outcome) -> None:
    if outcome == "fails":
        raise DownError
    if outcome == "is neutral":
        raise NeutralError
    if outcome == "is cancelled":
        raise KeyboardInterrupt  # what is no Exception passes through a synchronous call, too


TestTheBreakerAgreesWithANaiveModel = Comparison.TestCase
TestTheBreakerAgreesWithANaiveModel.settings = settings(
    max_examples=150, stateful_step_count=60, deadline=None
)
