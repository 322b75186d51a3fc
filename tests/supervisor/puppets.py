"""Services that do what a test tells them to."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field

from esper_async.runtime.breakers import Breakers
from esper_async.supervisor.declared import Declaration


def _with_a_disk() -> Breakers:
    breakers = Breakers("puppet")
    breakers.make("disk")
    return breakers


@dataclass
class Puppet:
    """Ready at once; ends when told to; writes what it does into `diary`."""

    name: str
    needs: tuple[str, ...] = ()
    essential: bool = False
    after: tuple[str, ...] = ()
    diary: list[str] = field(default_factory=list)
    fails_at_start: Exception | None = None
    stuck: asyncio.Event | None = None
    ends: asyncio.Queue[Exception] = field(default_factory=asyncio.Queue)
    lives: int = 0
    breakers: Breakers = field(default_factory=_with_a_disk)

    @property
    def declared(self) -> Declaration:
        return Declaration(self.name, self.needs, self.after, essential=self.essential)

    def detail(self) -> dict[str, object]:
        return {"lives": self.lives}

    async def run(self, ready: Callable[[], None]) -> None:
        self.lives += 1
        if self.fails_at_start is not None:
            raise self.fails_at_start
        self.diary.append(f"+{self.name}")
        ready()
        try:
            raise await self.ends.get()
        finally:
            if self.stuck is not None:
                await self.stuck.wait()
            self.diary.append(f"-{self.name}")


@dataclass
class Deaf(Puppet):
    """Swallows cancellation, so many times or until it `hears`."""

    deaf_to: int = 1_000
    hears: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self, ready: Callable[[], None]) -> None:
        self.diary.append(f"+{self.name}")
        ready()
        for _ in range(self.deaf_to):
            with contextlib.suppress(asyncio.CancelledError):
                await self.hears.wait()
                break
        await self.hears.wait()
