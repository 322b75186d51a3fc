"""The controller's thread: deadlines, generations, late answers, and the thread count."""

import threading
from typing import Any

import pytest
import torch

from esper_async.tamiyo.command import Decision, NoOp
from esper_async.tamiyo.controller import Answered, Controller, Failed, Late
from esper_async.tamiyo.view import View
from tests.tamiyo.graph_views import view

LONG_S, SHORT_S = 30.0, 0.02


class Scripted:
    """Decides what it is told; waits for a gate first, if it has one."""

    name = "scripted"
    version = "1"

    def __init__(self, gate: threading.Event | None = None, error: str | None = None) -> None:
        self.gate = gate
        self.error = error
        self.threads: list[tuple[str, int]] = []

    def decide(self, view: View) -> Decision:
        self.threads.append((threading.current_thread().name, torch.get_num_threads()))
        if self.gate is not None:
            self.gate.wait(LONG_S)
        if self.error is not None:
            raise RuntimeError(self.error)
        return Decision(NoOp(), f"boundary {view.boundary}", 1.0)

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        return


@pytest.fixture
def controller() -> Any:
    made = Controller()
    yield made
    made.close(timeout_s=LONG_S)


def test_a_policy_answers_on_a_thread_of_its_own_with_one_torch_thread(
    controller: Controller,
) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        policy = Scripted()
        answer = controller.ask(policy, view(7), timeout_s=LONG_S)
        assert isinstance(answer, Answered)
        assert answer.decision.reason == "boundary 7"
        assert policy.threads == [("esper-controller", 1)]
        assert torch.get_num_threads() == 2
        later: list[int] = []
        other = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        other.start()
        other.join()
        assert later == [2]
    finally:
        torch.set_num_threads(before)


def test_what_a_policy_raises_is_told_and_ends_nothing(controller: Controller) -> None:
    answer = controller.ask(Scripted(error="broken"), view(), timeout_s=LONG_S)
    assert answer == Failed("RuntimeError: broken")
    assert isinstance(controller.ask(Scripted(), view(), timeout_s=LONG_S), Answered)


def test_a_late_answer_is_void_and_the_next_question_gets_its_own(controller: Controller) -> None:
    gate = threading.Event()
    slow = Scripted(gate)
    assert isinstance(controller.ask(slow, view(5), timeout_s=SHORT_S), Late)
    busy = controller.ask(slow, view(6), timeout_s=SHORT_S)
    assert isinstance(busy, Late)
    assert busy.busy_s > 0
    assert controller.generation == 1  # nothing more was asked of a thread that is busy
    gate.set()
    pending = controller._pending
    assert pending is not None
    assert pending.answered.wait(LONG_S)
    answer = controller.ask(slow, view(8), timeout_s=LONG_S)
    assert isinstance(answer, Answered)
    assert answer.decision.reason == "boundary 8"
    assert (controller.generation, controller.void) == (2, 1)


def test_closing_ends_the_thread_and_says_when_it_is_stuck() -> None:
    gate = threading.Event()
    stuck = Controller()
    stuck.ask(Scripted(gate), view(), timeout_s=SHORT_S)
    thread = stuck._thread
    assert not stuck.close(timeout_s=SHORT_S)
    gate.set()
    assert thread is not None
    thread.join(LONG_S)
    assert not thread.is_alive()
    assert Controller().close()
