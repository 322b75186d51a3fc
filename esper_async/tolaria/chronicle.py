"""What a run tells of itself: records in its journal, and field reports as windows close."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from esper_async.kasmina.compiling.host import Pause
from esper_async.kasmina.executor import Executor
from esper_async.kasmina.gates import SPOILT_TWIN, GateResult
from esper_async.kasmina.isolation import VIOLATIONS
from esper_async.tamiyo.command import Cull, Decision, Germinate, NoOp, PauseSeeds
from esper_async.tamiyo.policies import Policy
from esper_async.tamiyo.reports import Costs, ReportBook
from esper_async.tolaria.boundary_report import BoundaryReport, Transition
from esper_async.tolaria.emergency import Level
from esper_async.tolaria.ledger import Ledger
from esper_async.tolaria.records import transition_record
from esper_async.tolaria.run_journal import RunJournal

_KEPT = ("field_report", "transition", "decision")
MOST_TOLD = 10_000
"""Records of each of these kinds that a run, and each of its checkpoints, remembers."""
_ALARMS: dict[str, Level] = {SPOILT_TWIN: "SEVERE", VIOLATIONS: "CRITICAL"}
"""Numbers of a gate that mean an emergency, and of which level."""


class Chronicle:
    """Tells what happened, and where the run was then.

    Args:
        journal: where it is written.
        position: returns the present boundary, step and epoch.
    """

    def __init__(self, journal: RunJournal, position: Callable[[], Mapping[str, Any]]) -> None:
        self._told = {kind: Ledger(MOST_TOLD) for kind in _KEPT}
        self._journal = journal
        self._position = position
        self._reports = ReportBook("", "", "")
        self._asks_to_save = False
        self._mitigations: list[str] = []
        self._rates_restored_at: int | None = None

    @property
    def told(self) -> dict[str, list[dict[str, Any]]]:
        """The newest reports, transitions and decisions, for the run's outcome."""
        return {kind: ledger.records for kind, ledger in self._told.items()}

    def name(self, run_id: str, policy: Policy) -> None:
        """Say what field reports name: the run, and the policy that is paid for them."""
        self._reports = ReportBook(run_id, policy.name, policy.version)

    def decides(self, policy: Policy) -> None:
        """Say that another policy is paid for the commands to come."""
        self._reports.policy, self._reports.policy_version = policy.name, policy.version

    def note(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Write a record of some kind; return it."""
        return self._journal.record(kind, self._position(), **fields)

    def refuse(self, reason: str, *, request: int | None = None) -> None:
        """Tell that a command could not be carried out; `request` numbers an operator's."""
        self.note("command_refused", reason=reason, request=request)

    def emergency(
        self,
        level: Level,
        reason: str,
        *,
        seed: str | None = None,
        by: str = "guard",
        request: int | None = None,
    ) -> None:
        """Tell of an emergency as it is answered; a CRITICAL one asks for a checkpoint.

        `request` numbers one that was told to the run, where telling of it is all that is left.
        """
        self._asks_to_save |= level == "CRITICAL"
        self.note("emergency", level=level, reason=reason, seed=seed, by=by, request=request)

    def rate_restored(self, reason: str) -> None:
        """Tell that somebody else had changed a learning rate: MINOR, once a boundary."""
        self.note("rate_violation", reason=reason)
        boundary = self._position()["boundary"]
        if boundary != self._rates_restored_at:
            self._rates_restored_at = boundary
            self.emergency("MINOR", reason)

    def asks_to_save(self) -> bool:
        """Whether something told since this was last called asks for a checkpoint."""
        asked, self._asks_to_save = self._asks_to_save, False
        return asked

    def transitions(self, transitions: Iterable[Transition]) -> None:
        """Tell of changes of stage, and of what went wrong with one."""
        for transition in transitions:
            self._tell("transition", **transition_record(transition))
            gate = transition.gate
            if gate is not None and (level := _alarm(gate)) is not None:
                self.emergency(level, gate.reason, seed=transition.seed.id)

    def decision(
        self,
        command_id: str,
        decision: Decision,
        policy: str,
        version: str,
        risk: Mapping[str, Any] | None = None,
        placements: Mapping[str, Any] | None = None,
        inference_ms: float | None = None,
    ) -> None:
        """Tell a decision, what the risk engine said of it, and the features of what it plants.

        `inference_ms` is for how long the policy was waited for.
        """
        self._mitigations = [] if risk is None else list(risk["mitigations"])
        told = decision.to_json()
        self._tell(
            "decision",
            **{**told, "command": {"id": command_id, **told["command"]}},
            policy=policy,
            policy_version=version,
            risk=risk,
            placements=placements,
            inference_ms=inference_ms,
        )

    def pauses(self, pauses: Iterable[Pause]) -> None:
        """Tell of steps that waited for the compiler, and of what it will not compile again."""
        for pause in pauses:
            self.note("compilation", **pause.to_json())
            if pause.given_up:
                self.emergency("MINOR", pause.surrender)

    def swaps(self, swaps: Iterable[Mapping[str, Any]]) -> None:
        """Tell of kernels that run compiled from now on, and of those that stay eager."""
        for swap in swaps:
            self.note("kernel_swap", **swap)

    def request(self, command_id: str, cull: Cull, reason: str, *, by: str, number: Any) -> None:
        """Tell that a request is obeyed or refused, as a decision of who made it."""
        self._tell(
            "decision",
            command={"id": command_id, **cull.to_json()},
            reason=reason,
            policy=by,
            policy_version="1",
            probability=1.0,
            alternatives=[],
            request=number,
        )

    def command_id(self, name: str) -> str:
        """Return a command's id: what is done again after a rollback is another command."""
        return f"{name}r{self._journal.rollbacks}" if self._journal.rollbacks else name

    # -- field reports -------------------------------------------------------------------------

    def carried_out(
        self, command_id: str, report: BoundaryReport, executor: Executor | None
    ) -> None:
        """Open the window of what a boundary carried out; tell of it if it was refused."""
        command = report.decision.command
        if isinstance(command, NoOp | PauseSeeds) or executor is None:
            if report.refused is not None:
                self.refuse(report.refused)
            return
        if report.refused is not None:
            self.refuse(report.refused)
        elif isinstance(command, Germinate):
            seeds = list(executor.seeds)[-len(command.candidates) :]
            spent = executor.compute.spent()
            self.open_window(command_id, "GERMINATE", seeds, report.metrics, spent=spent)
        else:
            operation = command.to_json()["operation"]
            self.open_window(command_id, operation, [command.seed], report.metrics)

    def open_window(
        self,
        command_id: str,
        operation: str,
        seeds: list[str],
        metrics: Mapping[str, float],
        *,
        spent: tuple[float, float] | None = None,
    ) -> None:
        """Begin to observe what a command brings; `spent` is what the run has cost so far."""
        place = self._position()
        self._reports.open(
            command_id,
            operation,
            seeds,
            boundary=place["boundary"],
            step=place["step"],
            metrics=metrics,
            mitigations=self._mitigations,
            spent=spent,
        )
        self._mitigations = []

    def close_due(self, executor: Executor | None, metrics: Mapping[str, float]) -> None:
        """Tell the reports of the windows that end at this boundary."""
        if executor is None:
            return
        boundary, costs = self._position()["boundary"], _costs(executor)
        self._report(
            self._reports.close_due(executor.seeds, boundary=boundary, metrics=metrics, costs=costs)
        )

    def close_all(self, executor: Executor, metrics: Mapping[str, float]) -> None:
        """Tell the reports of all windows: the run ends."""
        boundary, costs = self._position()["boundary"], _costs(executor)
        self._report(
            self._reports.close_all(executor.seeds, boundary=boundary, metrics=metrics, costs=costs)
        )

    def abort_after(self, executor: Executor, to_boundary: int) -> None:
        """Tell the reports of what a rollback to a boundary undoes."""
        boundary = self._position()["boundary"]
        self._report(
            self._reports.abort_after(executor.seeds, to_boundary=to_boundary, boundary=boundary)
        )

    def _report(self, reports: Iterable[Mapping[str, Any]]) -> None:
        for report in reports:
            self._tell("field_report", **report)

    def _tell(self, kind: str, **fields: Any) -> None:
        record = self.note(kind, **fields)
        for packed in ("evidence", "choices"):  # the journal has them; thousands would be in memory
            record.pop(packed, None)
        self._told[kind].append(record)

    # -- saved and restored --------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return what was told and the windows that are open."""
        told = {kind: ledger.state() for kind, ledger in self._told.items()}
        return {"told": told, "reports": self._reports.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for kind, ledger in self._told.items():
            ledger.load(state["told"][kind])
        self._reports.load_state_dict(state["reports"])


def _costs(executor: Executor) -> Costs:
    return Costs(executor.host_parameters, executor.compute.spent())


def _alarm(gate: GateResult) -> Level | None:
    """Return the level of the emergency that a gate tells of; None if it tells of none."""
    if gate.name == "G5" and not gate.passed:
        return "CRITICAL"
    return next((level for number, level in _ALARMS.items() if number in gate.numbers), None)
