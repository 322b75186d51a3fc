"""Services that do what a test tells them to."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Puppet:
    """Ready at once; ends when told to; writes what it does into `diary`."""

    name: str
    needs: tuple[str, ...] = ()
    essential: bool = False
    diary: list[str] = field(default_factory=list)
    fails_at_start: Exception | None = None
    stuck: asyncio.Event | None = None
    ends: asyncio.Queue[Exception] = field(default_factory=asyncio.Queue)
    lives: int = 0

    def detail(self) -> dict[str, object]:
        return {"lives": self.lives}

    def breakers(self) -> dict[str, str]:
        return {"disk": "closed"}

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
