"""What operators ask a run to remove: kept from its arrival to the boundary that carries it out."""

from esper_async.tamiyo.command import Cull, command_from_json
from esper_async.tolaria.control import Steer
from esper_async.tolaria.run_journal import RunJournal

OPERATOR = "operator"
"""What the journal calls the policy of their decisions."""


class Operator:
    """The culls that operators asked for; each numbered one is handed out once."""

    def __init__(self, journal: RunJournal) -> None:
        self._journal = journal
        self._waiting: list[Steer] = []

    def ask(self, steer: Steer) -> None:
        """Note a cull for the next boundary, unless it was met or is waiting already."""
        numbers = {waiting.request for waiting in self._waiting} - {None}
        if steer.request not in numbers and not self._journal.met(steer.request):
            self._waiting.append(steer)

    def due(self, boundary: int) -> list[tuple[Cull, int | None]]:
        """Return the culls to carry out at a boundary, with the numbers of their requests.

        A boundary that a resumed run repeats gets the ones it had. What was asked for later waits
        for the first boundary that is new: before it, the seed in question may not even be there.
        """
        if not self._journal.repeats(boundary):
            waiting, self._waiting = self._waiting, []
            return [(Cull(steer.seed or ""), steer.request) for steer in waiting]
        due = []
        for record in self._journal.decisions(boundary, OPERATOR):
            command = command_from_json(record["command"])
            assert isinstance(command, Cull)
            due.append((command, record.get("request")))
        return due
