"""Asking a policy beside the one that decides: about the same state, and without effect."""

from dataclasses import dataclass

from esper_async.tamiyo.command import Decision
from esper_async.tamiyo.command_legality import why_illegal
from esper_async.tamiyo.conduct import Conduct
from esper_async.tamiyo.controller import Answered, Controller, Failed, Late
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.risk.engine import RiskEngine
from esper_async.tamiyo.risk.levels import RiskLevel
from esper_async.tamiyo.risk.signals import Surroundings
from esper_async.tamiyo.view import View

DEADLINE_S = 0.06
"""For how long a policy beside the one that decides is waited for."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What came of asking the policy that decides.

    `cpu_ms` is what the answer took of its thread, None where it was late; `error` says why there
    was no decision.
    """

    view: View
    decision: Decision
    surroundings: Surroundings
    cpu_ms: float | None
    error: str | None

    def count(self, conduct: Conduct, risk: tuple[float, RiskLevel]) -> None:
        """Count what it did; `risk` is of its command."""
        if self.error is not None:
            conduct.failed(self.error)
        elif self.cpu_ms is None:
            conduct.was_late()
        else:
            illegal = why_illegal(self.decision.command, self.view)
            conduct.add(cpu_ms=self.cpu_ms, risk=risk, illegal=illegal)


class Beside:
    """Asks on a thread of its own; `risk` weighs what would come of it and remembers nothing."""

    def __init__(self, risk: RiskEngine) -> None:
        self._risk = risk
        self._controller = Controller()

    def ask(
        self, policy: Policy, asked: Asked, conduct: Conduct, *, timeout_s: float
    ) -> Answered | Failed | Late:
        """Ask about the state that the deciding policy was asked about, and count an answer."""
        answer = self._controller.ask(_Plain(policy), asked.view, timeout_s=timeout_s)
        if isinstance(answer, Answered):
            command = answer.decision.command
            conduct.add(
                cpu_ms=answer.cpu_ms,
                risk=self._risk.preview(asked.view, command, asked.surroundings),
                illegal=why_illegal(command, asked.view),
            )
        return answer

    def close(self) -> None:
        """End the thread."""
        self._controller.close()


class _Plain:
    """A policy asked for its decision alone: nobody wants its explanations."""

    name = "beside"
    version = "1"

    def __init__(self, policy: Policy) -> None:
        self.decide = policy.decide
        self.state_dict = policy.state_dict
        self.load_state_dict = policy.load_state_dict
