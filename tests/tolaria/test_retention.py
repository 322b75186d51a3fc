"""Ended runs let go of what they have kept long enough, and of nothing that is still waited for."""

import json
import os
from contextlib import closing
from pathlib import Path

import pytest

from esper_async.oona.spool import Spool
from esper_async.tolaria.retention import Retention, sweep
from esper_async.tolaria.run_file import parse_run
from esper_async.tolaria.runs import Run, RunState, RunStore

NOW, DAY = 1_700_000_000.0, 86_400.0
ALL = Retention(checkpoints_s=30 * DAY, runs_s=90 * DAY)


def a_run(store: RunStore, *, days_ago: float, state: RunState = "completed") -> Run:
    run = store.create(parse_run({"run": {"name": "a", "task": "any.module:make"}}), NOW)
    (run.folder / "checkpoints" / "0000000001.pt").write_bytes(b"weights")
    (run.folder / "journal.jsonl").write_text("{}\n")
    run.state = state
    store.save(run)
    ended = NOW - days_ago * DAY
    os.utime(run.folder / "state.json", (ended, ended))
    return run


@pytest.fixture
def store(tmp_path: Path) -> RunStore:
    return RunStore(tmp_path / "runs")


@pytest.mark.parametrize("state", ["completed", "failed", "stopped"])
def test_checkpoints_go_first_and_the_whole_run_later(store: RunStore, state: RunState) -> None:
    young, older, oldest = (a_run(store, days_ago=days, state=state) for days in (29, 31, 91))
    swept = sweep(store, store.all(), ALL, NOW)
    assert (swept.without_checkpoints, swept.gone) == ([older], [oldest])
    assert (young.folder / "checkpoints").is_dir()
    assert not (older.folder / "checkpoints").exists()
    assert (older.folder / "journal.jsonl").exists()
    assert not oldest.folder.exists()
    again = sweep(store, [young, older], ALL, NOW)
    assert (again.without_checkpoints, again.gone) == ([], [])


@pytest.mark.parametrize("state", ["queued", "running", "paused"])
def test_a_run_that_has_not_ended_keeps_everything(store: RunStore, state: RunState) -> None:
    run = a_run(store, days_ago=1_000, state=state)
    swept = sweep(store, [run], ALL, NOW)
    assert not swept.gone
    assert not swept.without_checkpoints
    assert (run.folder / "checkpoints").is_dir()


def test_nothing_goes_where_everything_is_kept_for_ever(store: RunStore) -> None:
    run = a_run(store, days_ago=1_000)
    sweep(store, [run], Retention(), NOW)
    assert (run.folder / "checkpoints" / "0000000001.pt").exists()


def test_a_run_whose_messages_were_not_delivered_stays(store: RunStore) -> None:
    run = a_run(store, days_ago=1_000)
    with closing(Spool(run.folder / "spool")) as spool:
        spool.append(event_id="e1", stream="s", topic="field_reports", wire=b"report")
        assert not sweep(store, [run], ALL, NOW).gone  # and while somebody has it
    assert not sweep(store, [run], ALL, NOW).gone
    with closing(Spool(run.folder / "spool")) as spool:
        spool.remove([entry.seq for entry in spool.after(0, 10)])
    assert sweep(store, [run], ALL, NOW).gone == [run]


def test_a_run_that_was_removed_is_no_run_any_more(store: RunStore) -> None:
    run = a_run(store, days_ago=91)
    sweep(store, [run], ALL, NOW)
    store.forget(run)
    assert store.all() == RunStore(store.folder).load() == []


def test_a_removal_that_was_killed_is_finished_by_the_next(store: RunStore) -> None:
    run = a_run(store, days_ago=91)
    left = run.folder.rename(store.folder / f".removed-{run.id}")
    assert json.loads((left / "run.json").read_text())["id"] == run.id
    assert RunStore(store.folder).load() == []
    sweep(store, [], ALL, NOW)
    assert list(store.folder.iterdir()) == []


def test_what_cannot_be_removed_stays_and_does_not_keep_the_others_from_it(
    store: RunStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stubborn, other = (a_run(store, days_ago=91) for _ in range(2))
    whole = RunStore.remove

    def refuses(self: RunStore, run: Run) -> None:
        if run is stubborn:
            raise OSError("read-only file system")
        whole(self, run)

    monkeypatch.setattr(RunStore, "remove", refuses)
    assert sweep(store, [stubborn, other], ALL, NOW).gone == [other]
    assert stubborn.folder.exists()
