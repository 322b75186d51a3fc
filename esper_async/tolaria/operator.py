"""What is asked of a run from outside for its next boundary: kept until that carries it out."""

from esper_async.kasmina.planting import CommandRefusedError
from esper_async.tamiyo.command import Cull, command_from_json
from esper_async.tolaria.chronicle import Chronicle
from esper_async.tolaria.control import Steer
from esper_async.tolaria.emergency import RATE_FACTOR
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.run_journal import RunJournal

OPERATOR = "operator"
"""What the journal calls the policy of their decisions, and who raised their emergencies."""


class Operator:
    """The culls that operators asked for, and MINOR emergencies; each numbered one is met once."""

    def __init__(self, journal: RunJournal, chronicle: Chronicle) -> None:
        self._journal = journal
        self._chronicle = chronicle
        self._waiting: list[Steer] = []

    def ask(self, steer: Steer) -> None:
        """Note a request for the next boundary, unless it was met or is waiting already."""
        numbers = {waiting.request for waiting in self._waiting} - {None}
        if steer.request not in numbers and not self._journal.met(steer.request):
            self._waiting.append(steer)

    def obey(self, grower: Grower, boundary: int) -> None:
        """Carry out what was asked for, or had been asked for before a resume.

        A boundary that a resumed run repeats gets what it had. What was asked for later waits for
        the first boundary that is new: before it, the seed in question may not even be there.
        """
        if self._journal.repeats(boundary):
            due = self._repeated(boundary)
        else:
            due, self._waiting = self._waiting, []
        culls = [steer for steer in due if steer.kind == "cull"]
        for number, steer in enumerate(culls, start=1):
            self._cull(grower, boundary, number, steer)
        for steer in due:
            if steer.kind == "emergency":
                grower.slow_down(RATE_FACTOR)
                self._chronicle.emergency("MINOR", steer.reason, by=OPERATOR, request=steer.request)

    def _repeated(self, boundary: int) -> list[Steer]:
        due = []
        for record in self._journal.decisions(boundary, OPERATOR):
            command = command_from_json(record["command"])
            assert isinstance(command, Cull)
            due.append(Steer("cull", seed=command.seed, request=record.get("request")))
        for record in self._journal.repeated("emergency", boundary):
            if (record["level"], record.get("by")) == ("MINOR", OPERATOR):
                reason, request = record["reason"], record["request"]
                due.append(Steer("emergency", level="MINOR", reason=reason, request=request))
        return due

    def _cull(self, grower: Grower, boundary: int, number: int, steer: Steer) -> None:
        chronicle, executor = self._chronicle, grower.executor
        command, request = Cull(steer.seed or ""), steer.request
        command_id = chronicle.command_id(f"o{boundary}.{number}")
        known = executor is not None and command.seed in executor.seeds
        reason = "asked for by an operator" if known else "refused: no such seed"
        chronicle.request(command_id, command, reason, by=OPERATOR, number=request)
        if not known:
            chronicle.refuse(f"there is no seed {command.seed!r} to cull", request=request)
            return
        try:
            grower.carry_out(command)
        except CommandRefusedError as refusal:
            chronicle.refuse(str(refusal), request=request)
        else:
            metrics = grower.history[-1] if grower.history else {}
            chronicle.open_window(command_id, "CULL", [command.seed], metrics)
