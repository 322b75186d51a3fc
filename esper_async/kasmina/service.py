"""Kasmina's supervisor side: commands that crossed the bus go to the process that can obey them.

The bus has already refused what is unsigned, old or a replay. What is left is carried to the run's
training process, which journals it with the step at which it took effect; what cannot be carried is
refused here, counted by reason, and changes nothing.
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import structlog
from google.protobuf.message import Message

from esper_async.leyline import AdaptationCommand, CommandType, EventEnvelope, SeedOperation
from esper_async.runtime.metrics import Registry

if TYPE_CHECKING:
    from esper_async.oona import Bus

log = structlog.get_logger(__name__)
GROUP = "tolaria"


class Runs(Protocol):
    """Whoever holds the training processes. Calls raise LookupError or RuntimeError."""

    def pause(self, run_id: str) -> object:
        """Hold a run."""
        ...

    def resume(self, run_id: str) -> object:
        """Let it go on."""
        ...

    def rollback(self, run_id: str, to_boundary: int | None = None) -> object:
        """Send it back."""
        ...

    def cull(self, run_id: str, seed: str) -> object:
        """Have it remove a seed."""
        ...


class KasminaService:
    """Carry commands from the bus to the runs' training processes."""

    name = "kasmina"
    needs: tuple[str, ...] = ("oona", "tolaria")
    essential = False

    def __init__(self, bus: "Bus", runs: Runs, *, registry: Registry | None = None) -> None:
        self._bus = bus
        self._runs = runs
        self._carried = 0
        self._refused: Counter[str] = Counter()
        self._metric = (registry or Registry()).counter(
            "kasmina.commands.refused", "Commands that changed nothing.", ("reason", "run")
        )

    def detail(self) -> dict[str, object]:
        """Return how many commands were carried and refused."""
        return {"carried": self._carried, "refused": dict(self._refused)}

    async def run(self, ready: Callable[[], None]) -> None:
        """Take commands until cancelled."""
        ready()
        await self._bus.consume("commands", GROUP, self._take, consumer="kasmina")

    async def _take(self, message: Message, _envelope: EventEnvelope) -> None:
        if not isinstance(message, AdaptationCommand):
            self._refuse("not_a_command", message.DESCRIPTOR.name)
            return
        try:
            known = self._carry(message)
        except (LookupError, RuntimeError) as error:
            self._refuse("run_cannot_obey", str(error), message)
            return
        if not known:
            self._refuse("not_for_an_operator", CommandType.Name(message.type), message)
            return
        self._carried += 1
        log.info("command_carried", command=message.command_id, run=message.run_id)

    def _carry(self, command: AdaptationCommand) -> bool:
        """Hand the command on; return False for one that only the controller may give."""
        if command.type == CommandType.COMMAND_TYPE_PAUSE:
            deed = self._runs.resume if command.pause.resume else self._runs.pause
            deed(command.run_id)
        elif command.type == CommandType.COMMAND_TYPE_ROLLBACK:
            self._runs.rollback(command.run_id, command.rollback.boundary)
        elif (
            command.type == CommandType.COMMAND_TYPE_SEED
            and command.seed.operation == SeedOperation.SEED_OPERATION_CULL
        ):
            self._runs.cull(command.run_id, command.seed_id)
        else:
            return False
        return True

    def _refuse(self, reason: str, words: str, command: AdaptationCommand | None = None) -> None:
        self._refused[reason] += 1
        self._metric.add(reason=reason, run=command.run_id if command is not None else "")
        log.warning(
            "command_refused",
            reason=reason,
            words=words,
            command=command.command_id if command is not None else "",
        )
