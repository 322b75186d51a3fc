"""The hub: every run's picture, from the bus, from the journal, and who is told."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from esper_async.runtime.breaker import CircuitBreaker
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.errors import BreakerOpen
from esper_async.runtime.journal import Journal, read_journal
from esper_async.tamiyo.errors import UnknownRunError
from esper_async.tamiyo.hub import Hub

Record = dict[str, Any]


def written(runs: Path, run: str, boundaries: int, *, ended: bool = False) -> list[Record]:
    path = runs / run / "journal.jsonl"
    journal = Journal.open(path)
    place = {"time": 1000.0, "run": run, "step": 0}
    start = {"name": run, "policy": "static", "epochs": 3}
    journal.append({"kind": "run_started", "boundary": 0, "epoch": 0, **place, **start})
    for number in range(1, boundaries + 1):
        body = {"boundary": number, "epoch": number, "metrics": {"l": 1.0 / number}, "seeds": []}
        journal.append({"kind": "boundary", **place, **body})
    if ended:
        end = {"state": "completed", "boundary": boundaries, "epoch": boundaries}
        journal.append({"kind": "run_ended", **place, **end})
    journal.close()
    return list(read_journal(path))


async def test_rebuild_reads_every_run_folder(tmp_path: Path) -> None:
    written(tmp_path, "a", 2, ended=True)
    written(tmp_path, "b", 1)
    hub = Hub(tmp_path)
    await hub.rebuild()
    assert {run["id"]: run["state"] for run in hub.runs()} == {"a": "completed", "b": "running"}


async def test_rebuild_without_a_runs_folder_knows_no_run(tmp_path: Path) -> None:
    hub = Hub(tmp_path / "missing")
    await hub.rebuild()
    assert hub.runs() == []
    with pytest.raises(UnknownRunError, match="ghost"):
        await hub.picture("ghost")


async def test_records_lost_on_the_bus_are_read_from_the_journal(tmp_path: Path) -> None:
    records = written(tmp_path, "a", 5)
    hub = Hub(tmp_path)
    await hub.accept(records[4])
    assert (await hub.picture("a")).seq == len(records)


async def test_a_gap_that_the_journal_cannot_fill_leaves_the_picture_late_not_wrong(
    tmp_path: Path,
) -> None:
    records = written(tmp_path / "elsewhere", "a", 5)
    hub = Hub(tmp_path)
    await hub.accept(records[0])
    await hub.accept(records[3])
    picture = await hub.picture("a")
    assert (picture.seq, picture.rows) == (1, [])


async def test_a_run_that_is_silent_on_the_bus_is_followed_in_its_file(tmp_path: Path) -> None:
    clock = FakeClock()
    hub = Hub(tmp_path, clock=clock)
    watching = asyncio.create_task(hub.watch_files())
    with hub.subscribe() as subscription:
        await asyncio.sleep(0)  # lets the watcher begin its first sleep
        assert clock.sleepers == 1
        written(tmp_path, "a", 2)
        clock.advance(3.0)
        assert await subscription.changes() == {"a": 0}
    assert (await hub.picture("a")).seq == 3
    watching.cancel()


async def test_changes_are_gathered_until_one_asks(tmp_path: Path) -> None:
    records = written(tmp_path / "elsewhere", "a", 3)
    hub = Hub(tmp_path)
    with hub.subscribe() as subscription:
        for record in records:
            await hub.accept(record)
        assert await subscription.changes() == {"a": 0}
        await hub.accept(records[0])
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await subscription.changes()


@pytest.mark.parametrize("run", ["", "../../etc", ".hidden", None, 7])
async def test_a_record_that_names_no_run_is_refused_and_counted(tmp_path: Path, run: Any) -> None:
    hub = Hub(tmp_path)
    await hub.accept({"seq": 1, "kind": "paused", "run": run})
    assert (hub.malformed, hub.runs()) == (1, [])


async def test_old_ended_runs_are_kept_as_summaries_and_read_again_on_demand(
    tmp_path: Path,
) -> None:
    for name in "abcd":
        written(tmp_path, name, 2, ended=True)
    hub = Hub(tmp_path, keep=2)
    await hub.rebuild()
    assert len(hub.runs()) == 4
    assert len((await hub.picture("a")).rows) == 2
    assert len(hub.runs()) == 4


async def test_a_damaged_journal_shows_in_its_run_and_stops_no_other(tmp_path: Path) -> None:
    written(tmp_path, "a", 3)
    written(tmp_path, "b", 1)
    path = tmp_path / "a" / "journal.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], b"00000000 {}\n", *lines[2:]]))
    hub = Hub(tmp_path)
    await hub.rebuild()
    assert (await hub.picture("a")).faults
    assert (await hub.picture("b")).faults == []


async def test_journals_that_cannot_be_read_open_a_breaker_and_close_it_when_they_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = written(tmp_path, "a", 5)
    clock = FakeClock()
    breaker = CircuitBreaker("tamiyo.journals", clock=clock)
    hub = Hub(tmp_path, disk=breaker, clock=clock)
    with monkeypatch.context() as patched:
        patched.setattr("esper_async.tamiyo.hub.read_journal", failing)
        for _ in range(breaker.policy.failures):
            with pytest.raises(OSError, match="bad sector"):
                await hub.accept(records[5])
        with pytest.raises(BreakerOpen):
            await hub.accept(records[5])
    assert (await hub.picture("a")).seq == 0
    clock.advance(breaker.policy.open_s)
    await hub.accept(records[5])
    assert (await hub.picture("a")).seq == len(records)
    assert breaker.state == "closed"


def failing(*_: object) -> list[Record]:
    raise OSError("bad sector")
