"""A real Redis for a test: `async with running_redis() as server`, in a directory of its own."""

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from esper_async.oona.server import EmbeddedServer


@asynccontextmanager
async def running_redis(
    directory: Path | None = None, *, binary: Path | None = None
) -> AsyncIterator[EmbeddedServer]:
    """Start an embedded server, in `directory` or a temporary one, and stop it at the end.

    `binary` is another server's program, say that of an older Redis. The server's `url` is what
    clients connect to; a test may stop, kill and start it.
    """
    with tempfile.TemporaryDirectory(prefix="esper-redis-") as scratch:
        server = EmbeddedServer(directory or Path(scratch), binary=binary)
        await server.start()
        try:
            yield server
        finally:
            await server.stop()
