"""The controller's own thread: a policy is asked there, with a deadline.

A question carries the number of its generation. One that is not answered in time is void: whatever
the policy comes to later is thrown away. A controller that does not come back is stuck, and given
up: its thread cannot be ended, so it is left behind, and nothing is asked of it again.
"""

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

import torch

from esper_async.tamiyo.command import Decision, NoOp
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.view import View


@dataclass(frozen=True, slots=True)
class Answered:
    """A decision, and what it took in ms, as the asker waited and as the thread's CPU ran."""

    decision: Decision
    wall_ms: float
    cpu_ms: float


@dataclass(frozen=True, slots=True)
class Failed:
    """The policy raised: what, in words."""

    error: str


@dataclass(frozen=True, slots=True)
class Late:
    """There was no answer in time; `waited_ms` is how long was waited, `busy_s` for how long the
    thread has been at it.
    """

    waited_ms: float
    busy_s: float


Answer = Answered | Failed | Late


@dataclass(frozen=True, slots=True)
class Explanation:
    """Which features moved the decision of a boundary most, the strongest first."""

    boundary: int
    moved: tuple[Mapping[str, Any], ...]


@dataclass(slots=True)
class _Question:
    generation: int
    policy: Policy
    view: View
    asked_at: float
    answered: threading.Event = field(default_factory=threading.Event)
    answer: Answered | Failed | None = None


class _Explain(Enum):
    """Asks for the explanation of the newest answer."""

    NEWEST = auto()


_EXPLAIN = _Explain.NEWEST


class Controller:
    """Asks a policy on a thread of its own. One question at a time, from one thread.

    The thread computes with one torch thread: more of them would wait for the training they share
    the cores with. The caller's number of threads stays what it is.

    Attributes:
        generation: of the newest question.
        void: answers that came too late, and were thrown away.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter) -> None:
        self.generation = 0
        self.void = 0
        self._clock = clock
        self._questions: queue.SimpleQueue[_Question | _Explain | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._pending: _Question | None = None
        self._explained: deque[Explanation] = deque()

    def take_explanations(self, before: float = math.inf) -> list[Explanation]:
        """Return why decisions of boundaries `before` one were taken, each once, oldest first.

        Of the boundaries before an answered one all are there.
        """
        taken: list[Explanation] = []
        while self._explained and self._explained[0].boundary < before:
            taken.append(self._explained.popleft())
        return taken

    def explain(self) -> None:
        """Have the newest answer explained, beside the run's next steps.

        To be called when the boundary is over: the explanation would take the processor from what
        carries the command out. Where it was not, the next question waits for it.
        """
        if self._thread is not None:
            self._questions.put(_EXPLAIN)

    def ask(self, policy: Policy, view: View, *, timeout_s: float) -> Answer:
        """Return the policy's decision, what it raised, or that it did not come in time."""
        self._start()
        asked_at = self._clock()
        if self._is_busy():
            return self._late(asked_at)
        self.generation += 1
        question = _Question(self.generation, policy, view, asked_at)
        self._pending = question
        self._questions.put(question)
        if not question.answered.wait(timeout_s) or question.answer is None:
            return self._late(asked_at)
        self._pending = None
        answer = question.answer
        if isinstance(answer, Failed):
            return answer
        return Answered(answer.decision, 1e3 * (self._clock() - asked_at), answer.cpu_ms)

    @property
    def busy_s(self) -> float:
        """For how long the thread has been at a question that is void; 0 when it is free."""
        return self._clock() - self._pending.asked_at if self._is_busy() and self._pending else 0.0

    def close(self, *, timeout_s: float = 1.0) -> bool:
        """End the thread; return whether it did. One that is stuck is left behind."""
        if self._thread is None:
            return True
        self._questions.put(None)
        self._thread.join(timeout_s)
        ended = not self._thread.is_alive()
        self._thread = None
        return ended

    def _is_busy(self) -> bool:
        """Whether a void question is still being answered; one that has been is thrown away."""
        pending = self._pending
        if pending is None:
            return False
        if not pending.answered.is_set():
            return True
        self._pending = None
        self.void += 1
        return False

    def _late(self, asked_at: float) -> Late:
        pending = self._pending
        since = asked_at if pending is None else pending.asked_at
        now = self._clock()
        return Late(1e3 * (now - asked_at), now - since)

    def _start(self) -> None:
        if self._thread is not None:
            return
        threads = torch.get_num_threads()
        ready = threading.Event()
        self._thread = threading.Thread(
            target=self._serve, args=(ready,), name="esper-controller", daemon=True
        )
        self._thread.start()
        ready.wait()
        torch.set_num_threads(threads)  # the number is also what threads to come begin with

    def _serve(self, ready: threading.Event) -> None:
        torch.get_num_threads()  # a thread takes over the common number when it first asks for it
        torch.set_num_threads(1)
        ready.set()
        unexplained: _Question | None = None
        while (question := self._questions.get()) is not None:
            if unexplained is not None:
                self._explain(unexplained)
                unexplained = None
            if isinstance(question, _Explain):
                continue
            started = time.thread_time()
            try:
                decision = question.policy.decide(question.view)
                cpu_ms = 1e3 * (time.thread_time() - started)
                question.answer = Answered(decision, 0.0, cpu_ms)
            except Exception as error:  # noqa: BLE001 - whatever a policy raises ends no training
                question.answer = Failed(f"{type(error).__name__}: {error}")
            question.answered.set()
            unexplained = question
        if unexplained is not None:
            self._explain(unexplained)

    def _explain(self, question: _Question) -> None:
        """Ask the policy what moved it most, if it can tell and has done anything."""
        explain = getattr(question.policy, "explain", None)
        answer = question.answer
        if explain is None or not isinstance(answer, Answered):
            return
        if isinstance(answer.decision.command, NoOp):
            return
        try:
            moved = tuple(explain())
        except Exception as error:  # noqa: BLE001 - a decision stands without its explanation
            moved = ({"node": "none", "feature": f"not explained: {error}", "effect": 0.0},)
        self._explained.append(Explanation(question.view.boundary, moved))
