"""How a run decides at a boundary: it asks its policy, weighs the risk, and journals both."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

from esper_async.karn.catalogue import Catalogue
from esper_async.tamiyo.command import Decision, NoOp, command_from_json
from esper_async.tamiyo.controller import Answered, Controller, Explanation, Failed
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.policies.placement_features import planted_features
from esper_async.tamiyo.policies.static import StaticPolicy
from esper_async.tamiyo.risk.engine import Assessment, RiskEngine
from esper_async.tamiyo.risk.levels import RiskLevel
from esper_async.tamiyo.risk.signals import Surroundings
from esper_async.tamiyo.view import View
from esper_async.tolaria.chronicle import Chronicle
from esper_async.tolaria.policy_beside import Asked
from esper_async.tolaria.policy_updates import PolicyUpdates
from esper_async.tolaria.run_journal import RunJournal

DEADLINE_S = 0.06
"""A decision later than this is void where the clock may act; five times what one may take."""
HANG_S = 5.0
"""How long a deterministic run waits before it goes back to its checkpoint."""
WARM_S = 30.0
MOST_IN_A_ROW = 3
"""Decisions in a row that a controller may miss, or fail at, before it is replaced."""


class DecisionHungError(TimeoutError):
    """A decision has not come within the hang limit: the run goes back to its checkpoint."""


class Decider:
    """Asks the policy on the controller's thread, and makes its answer the run's.

    A deterministic run waits for a late decision, and counts it; one that hangs sends the run back
    once, and the second time at the same boundary the run goes on without a policy. Elsewhere a
    late decision is void. A policy that raises has decided nothing; one that does so again and
    again is replaced.

    Args:
        journal: has what was decided before a resume.
        chronicle: where it is told.
        command_id: names a boundary's command.
        deterministic: whether no clock may reach the weights.
        bus_backlog: share of the outgoing queue that is full; None where nobody knows.
        may_go_back: whether there is a state to go back to.
        updates: of the run's policy; None where no update can reach it.

    Attributes:
        missed: decisions that were late, in all.
        trouble: an emergency that the risk engine declares; whoever answers it takes it.
    """

    def __init__(
        self,
        journal: RunJournal,
        chronicle: Chronicle,
        *,
        command_id: Callable[[], str],
        deterministic: bool,
        bus_backlog: Callable[[], float | None] = lambda: None,
        may_go_back: Callable[[], bool] = lambda: False,
        deadline_s: float = DEADLINE_S,
        hang_s: float = HANG_S,
        updates: PolicyUpdates | None = None,
    ) -> None:
        self.missed = 0
        self.trouble: str | None = None
        self.risk = RiskEngine(acts=not deterministic)
        self.last_ms: float | None = None
        self._waited_ms: float | None = None
        self._journal = journal
        self._chronicle = chronicle
        self._command_id = command_id
        self._deterministic = deterministic
        self._bus_backlog = bus_backlog
        self._may_go_back = may_go_back
        self._deadline_s = deadline_s
        self._hang_s = hang_s
        self._controller = Controller()
        self._catalogue = Catalogue()
        self._hung: Counter[int] = Counter()
        self._in_a_row = 0
        self._replaced: str | None = None
        self._error: str | None = None
        self._cpu_ms: float | None = None
        self._newest: str | None = None
        self._updates = updates
        if updates is not None:
            updates.join(journal, chronicle, self.risk, deterministic=deterministic)

    @property
    def replaced(self) -> str | None:
        """Why the policy was replaced by `static`; None while it was not."""
        return self._replaced

    def warm(self, policy: Policy, look: Callable[[], View]) -> None:
        """Let a policy run once on the sizes of the run, on its own thread, before the first step.

        What it decides then is thrown away, and its choices to come stay what they were.
        """
        warm = getattr(policy, "warm", None)
        if warm is not None:
            self._controller.ask(_Warming(warm), look(), timeout_s=WARM_S)

    def decide(self, policy: Policy, view: View) -> Decision:
        """Return what a boundary does; a resumed run repeats what it had journaled.

        Raises:
            DecisionHungError: the policy has not come back, and the run may go back.
        """
        if self.risk.acts and self.risk.conservative:
            view = replace(view, conservative=True)
        if self._replaced is not None:
            policy = StaticPolicy()
        elif self._updates is not None:
            policy = self._updated(self._updates, policy, view)
        decision = proposed = self._ask(policy, view)
        self._tell(self._controller.take_explanations(view.boundary))
        surroundings = self._surroundings(view)
        assessed = self.risk.weigh(view, decision.command, surroundings)
        recorded = self._journal.decisions(view.boundary, policy.name)
        if recorded:
            decision = Decision(
                command_from_json(recorded[0]["command"]),
                recorded[0]["reason"],
                recorded[0]["probability"],
            )
        else:
            decision = _governed(decision, assessed)
        if self.risk.acts and assessed.level is RiskLevel.CRITICAL:
            self.trouble = f"{assessed.reason_code}: {assessed.detail}"
        self._chronicle.decision(
            self._command_id(),
            decision,
            policy.name,
            policy.version,
            assessed.to_json(),
            planted_features(decision.command, view, self._catalogue),
            self._waited_ms,
        )
        if self._updates is not None and self._replaced is None:
            self._updates.observe(Asked(view, proposed, surroundings, self._cpu_ms, self._error))
        return decision

    def _updated(self, updates: PolicyUpdates, begun: Policy, view: View) -> Policy:
        """Return what decides from this boundary on, warm if it has just taken over."""
        policy = updates.at_boundary(view.boundary) or begun
        if policy.version not in (self._newest, begun.version):
            self.warm(policy, lambda: view)
        self._newest = policy.version
        return policy

    def _tell(self, explanations: Iterable[Explanation]) -> None:
        """Tell what moved earlier decisions: it was worked out while the run went on."""
        for explained in explanations:
            command_id = self._chronicle.command_id(f"c{explained.boundary}")
            self._chronicle.note("explanation", command_id=command_id, moved=explained.moved)

    def explain(self) -> None:
        """Have the newest decision explained beside the steps to come: its boundary is over."""
        self._controller.explain()

    def take_trouble(self) -> str | None:
        """Return the emergency that was declared since this was last called."""
        taken, self.trouble = self.trouble, None
        return taken

    def start_anew(self) -> None:
        """Give the thread up that has not come back, and ask on another."""
        self._controller.close(timeout_s=0.0)
        self._controller = Controller()

    def finish(self) -> None:
        """Take note that no boundary follows."""
        if self._updates is not None:
            self._updates.finish()

    def close(self) -> None:
        """End the controller's thread; what it still has to tell is told."""
        if self._updates is not None:
            self._updates.close()
        self._controller.close()
        self._tell(self._controller.take_explanations())

    def _ask(self, policy: Policy, view: View) -> Decision:
        timeout_s = self._hang_s if self._deterministic else self._deadline_s
        self._error = self._cpu_ms = None
        answer = self._controller.ask(policy, view, timeout_s=timeout_s)
        if isinstance(answer, Answered):
            self._in_a_row = 0
            self._cpu_ms = answer.cpu_ms
            self.last_ms = self._waited_ms = answer.wall_ms
            if answer.wall_ms > 1e3 * self._deadline_s:
                self.missed += 1
                self._chronicle.note("decision_late", ms=answer.wall_ms, used=True)
            return answer.decision
        self._in_a_row += 1
        if isinstance(answer, Failed):
            self._waited_ms, self._error = None, answer.error  # what raised has not decided
            return self._after_failure(policy, answer.error)
        self.missed += 1
        self.last_ms = self._waited_ms = answer.waited_ms
        if self._deterministic:
            return self._after_hang(policy, view)
        self._chronicle.note("decision_late", ms=answer.waited_ms, used=False)
        if self._in_a_row >= MOST_IN_A_ROW or answer.busy_s >= self._hang_s:
            self._replace(policy, f"it has not answered for {answer.busy_s:.1f} s")
        return Decision(NoOp(), f"no decision within {1e3 * self._deadline_s:.0f} ms")

    def _after_failure(self, policy: Policy, error: str) -> Decision:
        words = f"the policy {policy.name} {policy.version} raised {error}; nothing was done"
        self._chronicle.emergency("MINOR", words, by="guard")
        if self._in_a_row >= MOST_IN_A_ROW:
            self._replace(policy, f"it raised {self._in_a_row} times in a row")
        return Decision(NoOp(), words)

    def _after_hang(self, policy: Policy, view: View) -> Decision:
        self._hung[view.boundary] += 1
        words = f"no decision within the hang limit of {self._hang_s:g} s"
        self._error = words
        if self._updates is not None:
            self._updates.hung(words)
        if self._hung[view.boundary] < 2 and self._may_go_back():
            raise DecisionHungError(f"{words} at boundary {view.boundary}")
        self._replace(policy, words)
        return Decision(NoOp(), words)

    def _replace(self, policy: Policy, reason: str) -> None:
        """Decide nothing for the rest of the run; say so."""
        self._replaced = f"{policy.name} {policy.version}: {reason}"
        self.start_anew()
        self._chronicle.note(
            "controller_replaced", policy=policy.name, by="static", reason=reason, bitwise=False
        )
        self._chronicle.emergency(
            "MINOR", f"the controller was replaced by static: {self._replaced}", by="guard"
        )

    def _surroundings(self, view: View) -> Surroundings:
        if self._deterministic:
            return Surroundings()
        return Surroundings(
            bus_backlog=self._bus_backlog(),
            missed_deadlines=self._in_a_row,
            disruptions=sum(seed.windows > 0 for seed in view.ended),
        )

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run goes on from."""
        return {
            "missed": self.missed,
            "in_a_row": self._in_a_row,
            "replaced": self._replaced,
            "risk": self.risk.state_dict(),
            "updates": None if self._updates is None else self._updates.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned; a policy that was replaced stays so."""
        self.missed, self._in_a_row = state["missed"], state["in_a_row"]
        self._replaced = self._replaced or state["replaced"]
        self.risk.load_state_dict(state["risk"])
        updates = state.get("updates")  # checkpoints of earlier versions have none
        if self._updates is not None and updates is not None:
            self._updates.load_state_dict(updates)


class _Warming:
    """Stands in for a policy while it is warmed."""

    name = "warming"
    version = "1"

    def __init__(self, warm: Callable[[View], None]) -> None:
        self._warm = warm

    def decide(self, view: View) -> Decision:
        """Warm the policy; decide nothing."""
        self._warm(view)
        return Decision(NoOp(), "warmed", 1.0)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: there is no state."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over nothing."""


def _governed(decision: Decision, assessed: Assessment) -> Decision:
    """Return the decision that the risk engine leaves.

    One that was changed was not drawn by the policy: its probability is not known.
    """
    if assessed.command == decision.command:
        return decision
    told = "; ".join(assessed.mitigations)
    return Decision(
        assessed.command,
        f"{assessed.level.name} ({assessed.reason_code}): {told}; proposed: {decision.reason}",
        None,
        decision.alternatives,
        decision.value,
        decision.evidence,
    )
