"""A consumer in a process of its own, there to be killed: `... bus_chaos_child FOLDER URL NAME`.

Each report takes effect in a ledger that all consumers share: a row in the transaction that records
its event id.
"""

import argparse
import asyncio
import sqlite3
from contextlib import AbstractContextManager, closing, nullcontext
from pathlib import Path
from typing import Any

from esper_async.leyline import EventEnvelope, FieldReport, Signer
from esper_async.oona import Bus, BusSettings, effects
from esper_async.study.bench.benchmark import replaced

TOPIC, GROUP = "field_reports", "simic"
KEY = bytes(range(32))
SETTINGS = BusSettings(
    command_timeout_s=1.0,
    lease_s=3.0,
    claim_every_s=0.5,
    reconnect_cap_s=0.3,
    consume_open_s=0.2,
    spool_poll_s=0.05,
)
_TABLES = """
CREATE TABLE IF NOT EXISTS effects (report_id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS duplicates (report_id TEXT NOT NULL);
"""


def open_ledger(folder: Path) -> sqlite3.Connection:
    """Open the ledger, made if it is missing."""
    ledger = sqlite3.connect(folder / "ledger.sqlite", timeout=60.0)
    ledger.execute("PRAGMA journal_mode = WAL")
    ledger.execute("PRAGMA synchronous = NORMAL")  # killed processes lose nothing; machines might
    ledger.executescript(_TABLES)
    effects.prepare_effects(ledger)
    return ledger


async def consume(folder: Path, url: str, name: str) -> None:
    """Consume until killed."""
    with closing(open_ledger(folder)) as ledger:

        async def handler(report: FieldReport, envelope: EventEnvelope) -> None:
            with ledger:
                first = effects.first_time(ledger, envelope.event_id, group=GROUP)
                table = "effects" if first else "duplicates"
                ledger.execute(f"INSERT INTO {table} VALUES (?)", (report.report_id,))

        async with Bus(url, signer=Signer(KEY), source=name, settings=SETTINGS) as bus:
            await bus.consume(TOPIC, GROUP, handler, consumer=name)


def main() -> None:
    """Consume as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("url")
    parser.add_argument("name")
    parser.add_argument("--mutant", choices=["forgetful"])
    asked = parser.parse_args()
    broken: AbstractContextManager[Any] = nullcontext()
    if asked.mutant == "forgetful":
        broken = replaced(f"{effects.__name__}.first_time", _forgetful)
    with broken:
        asyncio.run(consume(asked.folder, asked.url, asked.name))


def _forgetful(*_: object, **__: object) -> bool:
    return True


if __name__ == "__main__":
    main()
