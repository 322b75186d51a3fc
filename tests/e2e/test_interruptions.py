"""Killed, drained, cut off from Redis: the run goes on, and ends in the very same weights."""

import json
import signal
from pathlib import Path

import pytest

from esper_async.oona.janitor import Janitor
from esper_async.testing.harness import Esper
from tests.cli.conftest import Up
from tests.cli.test_up import wait_for_epoch
from tests.e2e.conftest import (
    as_toml,
    digest,
    only_run,
    records,
    rejected,
    run_of,
    stored_reports,
)

pytestmark = pytest.mark.timeout(600)
QUICK = pytest.mark.esper(settings={"tolaria.nice": 0})


def assert_reported_once(state_dir: Path) -> None:
    """Every field report that the journal holds is in Simic's store, and each of them once."""
    told = [record["report_id"] for record in records(only_run(state_dir), "field_report")]
    assert told
    assert len(set(told)) == len(told)
    assert sorted(stored_reports(state_dir)) == sorted(told)
    assert rejected(state_dir) == 0


@QUICK
async def test_a_training_process_killed_twice_ends_bitwise_as_if_it_had_not_been(
    esper: Esper, uninterrupted: Path
) -> None:
    run_id = await esper.submit(run_of("table_mlp"))
    child = f"train-{run_id}"
    await esper.until(lambda _: esper.services.tolaria.progress(run_id).get("step"), 120)
    esper.faults.kill(child)  # before the first checkpoint
    await esper.until(lambda s: (s.run(run_id)["epoch"] or 0) >= 6, 120)
    esper.faults.kill(child)  # with seeds on trial
    run = await esper.ended(run_id)
    assert (run["state"], esper.services.tolaria.get(run_id).resumes) == ("completed", 2)
    folder = only_run(esper.state_dir)
    assert all(record["bitwise"] for record in records(folder, "resumed"))
    assert digest(folder) == digest(uninterrupted)
    count = len(records(folder, "field_report"))
    await esper.until(lambda _: len(stored_reports(esper.state_dir)) >= count)
    assert_reported_once(esper.state_dir)


@QUICK
async def test_redis_may_go_and_come_back_while_a_run_trains(
    esper: Esper, uninterrupted: Path
) -> None:
    tolaria = esper.services.tolaria
    run_id = await esper.submit(run_of("table_mlp"))

    def reached(wanted: int) -> bool:
        return step() >= wanted or tolaria.get(run_id).ended

    def step() -> int:
        return int(tolaria.progress(run_id).get("step") or 0)

    await esper.until(lambda s: (s.run(run_id)["epoch"] or 0) >= 2, 120)
    await esper.faults.kill_redis()
    await esper.until(lambda _: reached(50), 60)
    await esper.faults.stop_redis()
    before = step()
    await esper.until(lambda _: reached(before + 20), 60)  # it trains with the bus away
    await esper.faults.start_redis()
    run = await esper.ended(run_id)
    assert (run["state"], tolaria.get(run_id).resumes) == ("completed", 0)
    folder = only_run(esper.state_dir)
    assert digest(folder) == digest(uninterrupted)
    count = len(records(folder, "field_report"))
    await esper.until(lambda _: len(stored_reports(esper.state_dir)) >= count)
    assert_reported_once(esper.state_dir)


@pytest.mark.esper(settings={"tolaria.nice": 0, "tolaria.heartbeat_timeout_s": 8.0})
@pytest.mark.full
async def test_a_training_process_that_stands_still_is_ended_and_resumes(
    esper: Esper, uninterrupted: Path
) -> None:
    run_id = await esper.submit(run_of("table_mlp"))
    await esper.until(lambda s: (s.run(run_id)["epoch"] or 0) >= 3, 120)
    esper.faults.freeze(f"train-{run_id}")
    run = await esper.ended(run_id)
    assert (run["state"], esper.services.tolaria.get(run_id).resumes) == ("completed", 1)
    assert digest(only_run(esper.state_dir)) == digest(uninterrupted)


@QUICK
@pytest.mark.full
async def test_a_report_delivered_twice_has_its_effect_once(esper: Esper) -> None:
    run_id = await esper.submit(run_of("table_mlp"))
    await esper.faults.duplicate_next("field_reports", timeout_s=200)
    run = await esper.ended(run_id)
    assert run["state"] == "completed"
    count = len(records(only_run(esper.state_dir), "field_report"))
    await esper.until(lambda _: len(stored_reports(esper.state_dir)) >= count)
    assert_reported_once(esper.state_dir)


@QUICK
@pytest.mark.full
async def test_a_corrupt_certificate_is_noticed_and_made_again(esper: Esper) -> None:
    first = await esper.ended(await esper.submit(run_of("table_mlp", epochs=5)))
    assert first["state"] == "completed"
    damaged = esper.faults.corrupt_blob()
    second = await esper.ended(await esper.submit(run_of("table_mlp", epochs=5)))
    assert second["state"] == "completed"
    await esper.until(lambda _: list((esper.state_dir / "urza" / "quarantine").glob("*")), 60)
    assert damaged.name in {
        path.name.partition(".")[0] for path in (esper.state_dir / "urza" / "quarantine").iterdir()
    }


def test_a_drained_run_goes_on_at_the_next_up_and_ends_bitwise_the_same(
    up: Up, uninterrupted: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(as_toml(run_of("table_mlp")))
    first = up("--run", "run.toml", ESPER_TOLARIA__NICE="0")
    first.wait_ready()
    run_id = wait_for_epoch(first, 3)
    assert "libtorch" not in Path(f"/proc/{first.process.pid}/maps").read_text()
    assert first.stop(signal.SIGINT) == 0
    folder = first.state_dir / "runs" / run_id
    assert not (folder / "result.json").exists(), "it had ended before the drain"

    second = up("--exit-when-done", ESPER_TOLARIA__NICE="0")
    assert second.process.wait(240) == 0
    assert f"{run_id}: completed" in second.said()
    assert json.loads((folder / "result.json").read_text())["state"] == "completed"
    assert [record["bitwise"] for record in records(folder, "resumed")] == [True]
    assert digest(folder) == digest(uninterrupted)
    assert_reported_once(first.state_dir)
    assert only_run(first.state_dir) == folder


@QUICK
@pytest.mark.full
async def test_a_run_trains_on_while_the_bus_itself_is_started_again(
    esper: Esper, uninterrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = await esper.submit(run_of("table_mlp"))
    await esper.until(lambda s: (s.run(run_id)["epoch"] or 0) >= 3, 120)
    pid = esper.faults.child(f"train-{run_id}")

    async def fail(_janitor: Janitor) -> None:
        monkeypatch.undo()
        raise RuntimeError("a defect of the janitor's")

    monkeypatch.setattr(Janitor, "sweep", fail)
    await esper.until(lambda s: s.services["oona"]["restarts"] == 1 and s.ready, 60)
    assert esper.faults.child(f"train-{run_id}") == pid
    run = await esper.ended(run_id)
    assert (run["state"], esper.services.tolaria.get(run_id).resumes) == ("completed", 0)
    assert esper.services.tolaria.store.get(run_id).ended
    assert esper.state().services["tolaria"]["restarts"] == 0
    assert digest(only_run(esper.state_dir)) == digest(uninterrupted)
    count = len(records(only_run(esper.state_dir), "field_report"))
    await esper.until(lambda _: len(stored_reports(esper.state_dir)) >= count)
    assert_reported_once(esper.state_dir)
