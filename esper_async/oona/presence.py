"""Whether a server that this process keeps runs: who waits for it is told, and need not ask it."""

import asyncio


class Presence:
    """The keeper says `gone` and `back`; it is there until it is said to be gone. One loop's."""

    def __init__(self) -> None:
        self._there = asyncio.Event()
        self._there.set()

    def gone(self) -> None:
        """Say that the server has ended."""
        self._there.clear()

    def back(self) -> None:
        """Say that it answers; whoever waits goes on."""
        self._there.set()

    async def wait(self, patience_s: float) -> bool:
        """Wait until it is there; tell whether it was within `patience_s`."""
        try:
            async with asyncio.timeout(patience_s):
                await self._there.wait()
        except TimeoutError:
            return False
        return True
