"""What is done about a disk that has little room, in which order, and what never is."""

from pathlib import Path
from typing import Any

import pytest

from esper_async.nissa.event_store import Event, EventStore
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.disk import DiskLevel, DiskLimits
from esper_async.runtime.metrics import Registry
from esper_async.runtime.strict_model import ConfigurationError
from esper_async.supervisor.disk_keeper import DiskKeeper
from esper_async.supervisor.settings import load_settings


class Disk:
    """A disk with as much room as the test says."""

    room = 10_000

    def __call__(self, _folder: Path, _quota: int) -> tuple[int, int | None]:
        return self.room, None


def keeper(folder: Path, disk: Disk, registry: Registry | None = None) -> DiskKeeper:
    return DiskKeeper(
        folder,
        DiskLimits(low_bytes=1_000, full_bytes=200),
        log_limit_bytes=100,
        every_s=10.0,
        clock=FakeClock(),
        registry=registry or Registry(),
        room=disk,
    )


def a_run(folder: Path) -> Path:
    run = folder / "runs" / "r-1"
    (run / "checkpoints").mkdir(parents=True)
    for name in ("log.jsonl", "journal.jsonl", "checkpoints/1.pt"):
        (run / name).write_bytes(b"x" * 90)
    return run


def test_the_level_follows_the_room_and_is_measured(tmp_path: Path) -> None:
    disk, registry = Disk(), Registry()
    it = keeper(tmp_path, disk, registry)
    levels = []
    for room in (10_000, 500, 100, 1_100, 5_000):
        disk.room = room
        it.look()
        levels.append(it.level)
    assert levels == ["ok", "low", "full", "low", "ok"]
    assert registry.collectors.get_sample_value("esper_supervisor_disk_room_bytes") == 5_000


def test_logs_go_when_the_disk_is_low_and_checkpoints_and_journals_never(tmp_path: Path) -> None:
    disk = Disk()
    it = keeper(tmp_path, disk)
    run = a_run(tmp_path)
    it.look()
    assert (run / "log.jsonl").stat().st_size == 90
    disk.room = 100
    it.look()
    assert (run / "log.jsonl").stat().st_size == 0
    assert (run / "journal.jsonl").stat().st_size == 90
    assert (run / "checkpoints" / "1.pt").stat().st_size == 90


@pytest.mark.parametrize("name", ["runs/r1/log.jsonl", "tezzeret/worker-0.log", "redis/redis.log"])
def test_a_log_that_grows_is_begun_anew(tmp_path: Path, name: str) -> None:
    it = keeper(tmp_path, Disk())
    log = tmp_path / name
    log.parent.mkdir(parents=True)
    log.write_bytes(b"x" * 200)
    it.look()
    assert log.stat().st_size == 0
    assert log.with_name(f"{log.name}.1").stat().st_size == 200


@pytest.mark.parametrize(
    ("level", "kept"),
    [("ok", ["info", "warning", "error"]), ("low", ["warning", "error"]), ("full", [])],
)
def test_events_are_given_up_from_the_least_important_on(
    tmp_path: Path, level: DiskLevel, kept: list[str]
) -> None:
    store = EventStore(tmp_path / "events.sqlite", disk=lambda: level)
    taken = [
        each
        for each in ("info", "warning", "error")
        if store.add(Event(uid=each, time=0.0, level=each, source="t", name="n"))
    ]
    assert taken == kept
    assert store.dropped == 3 - len(kept)


def test_events_are_kept_for_a_shorter_time_while_the_disk_is_low(tmp_path: Path) -> None:
    room: dict[str, Any] = {"level": "ok"}
    clock = FakeClock(wall=1_000_000.0)
    store = EventStore(
        tmp_path / "events.sqlite", retention_s=700.0, clock=clock, disk=lambda: room["level"]
    )
    store.open()
    store.add(Event(uid="1", time=clock.time() - 200, level="info", source="t", name="n"))
    store.flush()
    assert store.prune() == 0
    room["level"] = "low"
    assert store.prune() == 1
    store.close()


def test_settings_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="a disk is low before it is full"):
        load_settings(None, {"supervisor.disk_low_mb": 1, "supervisor.disk_full_mb": 2}, {})
