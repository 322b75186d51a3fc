"""Kasmina's supervisor side: commands that crossed the bus go to the process that can obey them.

The bus has already refused what is unsigned, old or a replay. What is left is carried to the run's
training process, which journals it with the step at which it took effect; a breaker is moved here.
What cannot be carried is refused, counted by reason, and changes nothing.
"""

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

import structlog
from google.protobuf.message import Message

from esper_async.leyline import (
    AdaptationCommand,
    BreakerRequest,
    CircuitBreakerState,
    CommandType,
    EventEnvelope,
    SeedOperation,
)
from esper_async.runtime.breaker import CircuitBreaker
from esper_async.runtime.breakers import Breakers
from esper_async.runtime.clock import Clock
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

    def __init__(
        self,
        bus: "Bus",
        runs: Runs,
        *,
        breaker: Callable[[str], CircuitBreaker],
        registry: Registry | None = None,
        clock: Clock | None = None,
    ) -> None:
        self._bus = bus
        self._runs = runs
        self._breaker = breaker
        registry = registry or Registry()
        self.breakers = Breakers("kasmina", registry=registry, clock=clock)
        self._carrying = self.breakers.make(
            "kasmina.carry", is_failure=lambda error: isinstance(error, OSError)
        )
        self._carried = 0
        self._refused: Counter[str] = Counter()
        self._metric = registry.counter(
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
        """Carry one command. Raises BreakerOpen or OSError: the bus then delivers it again."""
        if not isinstance(message, AdaptationCommand):
            self._refuse("not_a_command", message.DESCRIPTOR.name)
            return
        try:
            known = self._carrying.call_sync(self._carry, message)
        except (LookupError, RuntimeError, ValueError) as error:
            self._refuse("cannot_be_obeyed", str(error), message)
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
        elif command.type == CommandType.COMMAND_TYPE_CIRCUIT_BREAKER:
            self._move(command.breaker)
        else:
            return False
        return True

    def _move(self, request: BreakerRequest) -> None:
        """Isolate a breaker or restore it; raises LookupError, ValueError for another state."""
        breaker = self._breaker(request.breaker)
        if request.state == CircuitBreakerState.CIRCUIT_BREAKER_STATE_OPEN:
            breaker.isolate()
        elif request.state == CircuitBreakerState.CIRCUIT_BREAKER_STATE_CLOSED:
            breaker.restore()
        else:
            raise ValueError(f"breaker {request.breaker!r} can be opened or closed by hand")

    def _refuse(self, reason: str, words: str, command: AdaptationCommand | None = None) -> None:
        self._refused[reason] += 1
        self._metric.add(reason=reason, run=command.run_id if command is not None else "")
        log.warning(
            "command_refused",
            reason=reason,
            words=words,
            command=command.command_id if command is not None else "",
        )
