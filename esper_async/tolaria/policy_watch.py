"""A policy that has taken over is watched beside the one before it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from esper_async.tamiyo.conduct import Conduct, faults, riskier, slower
from esper_async.tamiyo.controller import Answered
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.risk.levels import RiskLevel
from esper_async.tolaria.policy_beside import DEADLINE_S, Asked, Beside

HANG_S = 5.0
"""For how long a deterministic run waits for the policy before: no clock may choose what counts."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of a watch: in words where it does worse, and whether it gives way for that."""

    regressions: tuple[str, ...]
    gives_way: bool


class PolicyWatch:
    """What a policy has done since it took over, and what the one before it would have.

    Attributes:
        conduct: of the policy that decides.
        beside: of the one before it; what did not come in time counts as late.
    """

    def __init__(self, former: Policy) -> None:
        self._former = former
        self.conduct = Conduct()
        self.beside = Conduct()

    def observe(
        self, asked: Asked, risk: tuple[float, RiskLevel], beside: Beside, *, deterministic: bool
    ) -> None:
        """Take in what was decided, and ask the policy before about the same state."""
        asked.count(self.conduct, risk)
        timeout_s = HANG_S if deterministic else DEADLINE_S
        answer = beside.ask(self._former, asked, self.beside, timeout_s=timeout_s)
        if not isinstance(answer, Answered):
            self.beside.was_late()

    def verdict(self, boundaries: int, *, deterministic: bool) -> Verdict | None:
        """Return what is found, as soon as something is; None while it is watched on.

        Nothing found within so many boundaries ends the watch. Where no clock may reach the
        weights, a policy that is only slow does not give way in this run.
        """
        worse = [*faults(self.conduct), *riskier(self.conduct, self.beside)]
        slow = slower(self.conduct, self.beside)
        if not (worse or slow or self.conduct.decisions >= boundaries):
            return None
        return Verdict((*worse, *slow), bool(worse or (slow and not deterministic)))

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run watches on from."""
        return {
            "former": self._former.state_dict(),
            "conduct": self.conduct.to_json(),
            "beside": self.beside.to_json(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; raises as `Conduct.from_json` does."""
        self._former.load_state_dict(state["former"])
        self.conduct = Conduct.from_json(state["conduct"])
        self.beside = Conduct.from_json(state["beside"])
