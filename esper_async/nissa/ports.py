"""What Nissa calls of other parts, as narrow as it can be said."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Protocol

from google.protobuf.message import Message

from esper_async.karn.catalogue import Query
from esper_async.karn.record import BlueprintRecord
from esper_async.karn.selection import Selection
from esper_async.karn.tallies import Tally
from esper_async.leyline import EventEnvelope
from esper_async.oona.dead_letters import DeadLetter
from esper_async.tolaria.emergency import Level
from esper_async.tolaria.run_file import RunFile
from esper_async.tolaria.runs import Run
from esper_async.urza.records import Asset


class RunManager(Protocol):
    """The queue of runs. Each call raises RunNotFoundError or RunConflictError."""

    def submit(self, config: Mapping[str, Any] | RunFile) -> Run:
        """Queue a new run; raises ConfigurationError."""
        ...

    def runs(self) -> list[Run]:
        """Every run, oldest first."""
        ...

    def get(self, run_id: str) -> Run:
        """A run."""
        ...

    def progress(self, run_id: str) -> dict[str, Any]:
        """What its training process says it is doing; empty without one."""
        ...

    def pause(self, run_id: str) -> Run:
        """Hold it."""
        ...

    def resume(self, run_id: str) -> Run:
        """Let it go on."""
        ...

    def stop(self, run_id: str) -> Run:
        """End it, keeping what it has."""
        ...

    def rollback(self, run_id: str, to_boundary: int | None = None) -> Run:
        """Send it back to a boundary, or to its last checkpoint."""
        ...

    def cull(self, run_id: str, seed: str) -> Run:
        """Have it remove a seed."""
        ...

    async def emergency(self, run_id: str, level: Level, reason: str) -> Run:
        """Answer an emergency that somebody has seen."""
        ...


class Blueprints(Protocol):
    """Karn's catalogue and what came of what was planted."""

    @property
    def records(self) -> tuple[BlueprintRecord, ...]:
        """Every record in order of id."""
        ...

    async def select(self, query: Query) -> Selection:
        """Answer a query. Raises RuntimeError while Karn does not run."""
        ...

    async def tallies(self) -> Mapping[str, Tally] | None:
        """Counts of blueprints that have some; None where they cannot be read now."""
        ...


class Kernels(Protocol):
    """Urza's library. `find` blocks on the disk."""

    def find(self, *, limit: int = 1000) -> list[Asset]:
        """The newest assets, newest first."""
        ...


class Policies(Protocol):
    """Simic's registry."""

    def policies(self) -> Sequence[Mapping[str, Any]]:
        """Every version, newest first."""
        ...

    def history(self) -> Sequence[Mapping[str, Any]]:
        """What happened to them, newest first."""
        ...

    def activate(self, policy_id: str) -> None:
        """Make a version the active one; raises LookupError or ValueError."""
        ...


class DeadLetterBox(Protocol):
    """The bus's dead letters, oldest first. Calls raise what the bus raises when it is away."""

    async def list(
        self, *, limit: int = 100, after: str = "-", topic: str = ""
    ) -> list[DeadLetter]:
        """Letters behind the id `after`, of a topic if one is named."""
        ...

    async def show(self, letter_id: str) -> DeadLetter:
        """One letter; raises KeyError."""
        ...

    async def replay(self, letter_id: str) -> None:
        """Deliver it again; raises KeyError."""
        ...

    async def replay_all(self, *, topic: str = "") -> int:
        """Deliver all again, of a topic if one is named; return how many."""
        ...

    async def purge(self, *letter_ids: str) -> int:
        """Throw letters away; return how many there were."""
        ...

    async def purge_all(self, *, topic: str = "") -> int:
        """Throw all away, of a topic if one is named; return how many there were."""
        ...


class TelemetryBus(Protocol):
    """What Nissa needs of the bus."""

    async def consume(
        self,
        topic: str,
        group: str,
        handler: Callable[[Message, EventEnvelope], Awaitable[None]],
        *,
        consumer: str,
        optional: bool = False,
    ) -> None:
        """Hand messages to `handler` until cancelled."""
        ...


class SystemState(Protocol):
    """The supervisor's view of its services."""

    def __call__(self) -> Mapping[str, Any]:
        """The body of `/readyz`: `status` and `services` by name."""
        ...
