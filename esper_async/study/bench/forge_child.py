"""A forge with a bus in memory: `python -m ….forge_child FOLDER TARGET SETTINGS`.

Asks for what is in FOLDER/asks.json, tells each answer in FOLDER/answers.jsonl, and ends once every
request has one. What the forge says of itself is in FOLDER/detail.json, anew a few times a second.
"""

import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from google.protobuf.message import Message

from esper_async.leyline import SCHEMA_VERSION, EventEnvelope, KernelRequest, SiteInterface
from esper_async.runtime.files import write_json_atomically
from esper_async.runtime.logging import configure_logging
from esper_async.tezzeret.service import TezzeretService
from esper_async.tezzeret.settings import ForgeSettings

_LOOK_S = 0.05


class MemoryBus:
    """Hands over the requests once somebody listens, and keeps the answers in a file."""

    def __init__(self, folder: Path) -> None:
        self._answers = folder / "answers.jsonl"
        self.handler: Callable[..., Awaitable[None]] | None = None
        self.listening = asyncio.Event()
        self.answered: set[str] = set()

    async def consume(self, topic: str, group: str, handler: Any, *, consumer: str) -> None:
        """Let `handler` have what is delivered, until cancelled."""
        self.handler = handler
        self.listening.set()
        await asyncio.Event().wait()

    async def publish(self, message: Message) -> str:
        """Keep an answer."""
        answer: Any = message
        with self._answers.open("a") as file:
            told = {"request": answer.request_id, "type": type(message).__name__}
            told["reason"] = getattr(answer, "reason", "")
            told["strategy"] = int(answer.strategy)
            file.write(json.dumps(told) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.answered.add(answer.request_id)
        return answer.request_id  # type: ignore[no-any-return]


async def _main(folder: Path, target: str, settings: dict[str, Any]) -> None:
    bus: Any = MemoryBus(folder)
    bus.answered = {answer["request"] for answer in answers_in(folder)}
    service = TezzeretService(
        folder,
        bus,
        settings=ForgeSettings(**settings),
        worker_target=target,
        fingerprint=lambda: "bench",
    )
    task = asyncio.create_task(service.run(lambda: None))
    await bus.listening.wait()
    asks = json.loads((folder / "asks.json").read_text())
    for ask in asks:
        await bus.handler(_request(ask), EventEnvelope())
    while not task.done() and not {ask["id"] for ask in asks} <= bus.answered:
        write_json_atomically(folder / "detail.json", service.detail())
        await asyncio.sleep(_LOOK_S)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


def _request(ask: dict[str, Any]) -> KernelRequest:
    return KernelRequest(
        version=SCHEMA_VERSION,
        request_id=ask["id"],
        run_id="bench",
        blueprint_id=ask["blueprint"],
        interface=SiteInterface(kind="spatial", shape=[8, 6, 6]),
        strategy=ask["strategy"],
        batch=8 if ask["strategy"] else 0,
        threads=1 if ask["strategy"] else 0,
    )


def answers_in(folder: Path) -> list[dict[str, Any]]:
    """Return the answers told so far; one that was cut short is none."""
    path = folder / "answers.jsonl"
    lines = path.read_text().split("\n") if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


if __name__ == "__main__":
    configure_logging("warning")
    asyncio.run(_main(Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])))
