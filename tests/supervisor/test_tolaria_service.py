"""The queue of runs: states, requests, resumes and drains, with real children."""

import asyncio
import json
import os
import random
import shutil
import signal
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from esper_async.tolaria.control import Steer
from esper_async.tolaria.requests import accepted
from esper_async.tolaria.retention import Swept, sweep
from esper_async.tolaria.runs import Run, RunConflictError, RunNotFoundError, RunStore
from esper_async.tolaria.service import TolariaOptions, TolariaService

ROOT = str(Path(__file__).parents[2])


class NoWait(random.Random):
    def uniform(self, a: float, _b: float) -> float:
        return a


def service_in(folder: Path, bus: Any = None, **options: Any) -> TolariaService:
    return TolariaService(
        folder,
        lambda: "unix:///nowhere",
        bus=bus,
        source=NoWait(),
        options=TolariaOptions(
            target="tests.supervisor.training_targets:train",
            environment={"PYTHONPATH": ROOT},
            nice=0,
            **options,
        ),
    )


def config(act: str, name: str = "t") -> dict[str, Any]:
    return {"run": {"name": name, "task": "any.module:make", "options": {"act": act}}}


@asynccontextmanager
async def running(service: TolariaService) -> AsyncIterator[TolariaService]:
    ready = asyncio.Event()
    async with asyncio.timeout(30):
        task = asyncio.ensure_future(service.run(ready.set))
        try:
            await ready.wait()
            yield service
        finally:
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled(), task.exception()


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(15):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def requests_of(run: Run) -> str:
    path = run.folder / "requests"
    return path.read_text() if path.exists() else ""


async def test_a_run_completes_with_the_training_processs_own_word(tmp_path: Path) -> None:
    async with running(service_in(tmp_path)) as service:
        run = service.submit(config("complete"))
        assert run.state == "queued"
        await service.wait_ended(run.id)
        assert (run.state, run.error, run.resumes) == ("completed", None, 0)
        assert run.result is not None
        assert len(run.result["comparison"]) == 2


async def test_one_run_trains_at_a_time_by_default(tmp_path: Path) -> None:
    async with running(service_in(tmp_path)) as service:
        first = service.submit(config("until_stopped"))
        second = service.submit(config("complete"))
        await until(lambda: first.state == "running" and service.progress(first.id).get("step"))
        assert second.state == "queued"
        service.stop(first.id)
        await service.wait_ended(second.id)
        assert (first.state, second.state) == ("stopped", "completed")


async def test_two_run_side_by_side_when_configured(tmp_path: Path) -> None:
    async with running(service_in(tmp_path, concurrent_runs=2)) as service:
        runs = [service.submit(config("until_stopped")) for _ in range(2)]
        await until(lambda: all(run.state == "running" for run in runs))


async def test_a_refused_run_fails_with_its_reason_and_is_not_repeated(tmp_path: Path) -> None:
    async with running(service_in(tmp_path)) as service:
        run = service.submit(config("refuse"))
        await service.wait_ended(run.id)
        assert (run.state, run.error) == ("failed", "the loader is empty")
        assert (run.folder / "lives").read_text() == "1"


async def test_a_killed_training_process_is_started_again(tmp_path: Path) -> None:
    async with running(service_in(tmp_path)) as service:
        run = service.submit(config("crash_once"))
        await service.wait_ended(run.id)
        assert (run.state, run.resumes) == ("completed", 1)


async def test_a_run_that_always_fails_is_given_up_with_its_reason(tmp_path: Path) -> None:
    async with running(service_in(tmp_path)) as service:
        run = service.submit(config("crash_always"))
        await service.wait_ended(run.id)
        assert run.state == "failed"
        assert run.error is not None
        assert "the task is broken" in run.error
        assert (run.folder / "lives").read_text() == "2"


async def test_a_run_whose_disk_is_full_waits_for_room_however_often_it_is_refused(
    tmp_path: Path,
) -> None:
    async with running(service_in(tmp_path)) as service:
        run = service.submit(config("no_room_at_first"))
        await service.wait_ended(run.id)
        assert (run.state, run.resumes) == ("completed", 3)


async def test_requests_reach_the_training_process(tmp_path: Path) -> None:
    async with running(service_in(tmp_path)) as service:
        run = service.submit(config("until_stopped"))
        await until(lambda: service.progress(run.id).get("step"))
        service.pause(run.id)
        assert run.state == "paused"
        service.resume(run.id)
        assert run.state == "running"
        service.rollback(run.id, 3)
        service.cull(run.id, "seed-1")
        await until(lambda: "cull" in requests_of(run))
        assert requests_of(run).splitlines() == [
            "pause {}", "resume {}", 'rollback {"request": 1, "to_boundary": 3}',
            'cull {"request": 2, "seed": "seed-1"}',
        ]  # fmt: skip


async def test_what_is_accepted_for_a_training_process_that_hangs_outlives_it(
    tmp_path: Path,
) -> None:
    async with running(service_in(tmp_path)) as service:
        run = service.submit(config("until_stopped"))
        await until(lambda: service.progress(run.id).get("step"))
        os.kill(run.pid or 0, signal.SIGSTOP)
        service.cull(run.id, "seed-1")
        os.kill(run.pid or 0, signal.SIGKILL)
        await until(lambda: run.resumes == 1)
        service.rollback(run.id)  # between two training processes, or in the second one
        await until(lambda: service.progress(run.id).get("step"))
        assert requests_of(run) == "" or "rollback" in requests_of(run)
        assert accepted(run.folder) == [
            Steer("cull", seed="seed-1", request=1),
            Steer("rollback", request=2),
        ]


async def test_a_request_that_the_disk_refuses_is_neither_accepted_nor_handed_on(
    tmp_path: Path,
) -> None:
    async with running(service_in(tmp_path)) as service:
        run = service.submit(config("until_stopped"))
        await until(lambda: service.progress(run.id).get("step"))
        (run.folder / "requests.jsonl").mkdir()
        with pytest.raises(OSError, match="requests"):
            service.cull(run.id, "seed-1")
        service.pause(run.id)
        await until(lambda: "pause" in requests_of(run))
        assert requests_of(run) == "pause {}\n"


async def test_an_unfinished_run_goes_on_at_the_next_start(tmp_path: Path) -> None:
    async with running(service_in(tmp_path)) as service:
        run = service.submit(config("until_stopped"))
        await until(lambda: service.progress(run.id).get("step"))
        assert service.drained(run.id) is None
    assert service.drained(run.id)
    assert (run.folder / "checkpoints" / "last").exists(), "draining leaves a checkpoint"
    async with running(service_in(tmp_path)) as again:
        resumed = again.get(run.id)
        await until(lambda: resumed.state == "running" and again.progress(run.id).get("step"))
        assert (run.folder / "lives").read_text() == "2"
        again.stop(run.id)
        await again.wait_ended(run.id)
    assert service_in(tmp_path).store.load()[0].state == "stopped"


async def test_a_stop_whose_processes_all_die_before_it_is_done_holds_at_the_next_start(
    tmp_path: Path,
) -> None:
    async with running(service_in(tmp_path / "here")) as service:
        run = service.submit(config("until_stopped"))
        await until(lambda: service.progress(run.id).get("step"))
        os.kill(run.pid or 0, signal.SIGSTOP)
        service.stop(run.id)
        shutil.copytree(tmp_path / "here", tmp_path / "after", ignore=only_files)
        os.kill(run.pid or 0, signal.SIGCONT)
        await service.wait_ended(run.id)
    async with running(service_in(tmp_path / "after")) as again:
        assert again.get(run.id).state == "stopped"
    assert (tmp_path / "after" / "runs" / run.id / "lives").read_text() == "1"


async def test_a_stop_that_the_disk_refuses_is_not_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(service_in(tmp_path)) as service:
        run = service.submit(config("until_stopped"))
        await until(lambda: service.progress(run.id).get("step"))
        with monkeypatch.context() as patch, pytest.raises(OSError, match="full"):
            patch.setattr(service.store, "save", refuse)
            service.stop(run.id)
        assert not run.stop_asked
        assert "stop" not in requests_of(run)


async def test_a_full_disk_ends_neither_the_service_nor_a_run_and_what_it_refused_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("esper_async.tolaria.service._SAVE_AGAIN_S", 0.01)
    async with running(service_in(tmp_path)) as service:
        run = service.submit(config("until_stopped"))
        await until(lambda: service.progress(run.id).get("step"))
        with monkeypatch.context() as disk:
            disk.setattr(service.store, "save", refuse)
            first = run.pid
            assert first is not None
            os.kill(first, signal.SIGKILL)
            await until(lambda: run.pid not in (None, first) and service.progress(run.id))
        await until(lambda: json.loads((run.folder / "state.json").read_text())["resumes"] == 1)
        service.stop(run.id)
        assert (await service.wait_ended(run.id)).state == "stopped"


def only_files(folder: str, names: list[str]) -> set[str]:
    """Leave out sockets and pipes."""
    found = (Path(folder) / name for name in names)
    return {path.name for path in found if not (path.is_file() or path.is_dir())}


def refuse(_: Run) -> None:
    raise OSError("the disk is full")


async def test_a_result_written_while_the_supervisor_was_dead_is_adopted(tmp_path: Path) -> None:
    service = service_in(tmp_path)
    service.store.load()
    run = service.submit(config("complete"))
    run.state = "running"
    service.store.save(run)
    (run.folder / "result.json").write_text('{"state": "completed", "error": null}')
    async with running(service_in(tmp_path)) as again:
        assert again.get(run.id).state == "completed"
        assert not (run.folder / "lives").exists()


async def test_a_queued_run_can_be_paused_resumed_and_stopped(tmp_path: Path) -> None:
    async with running(service_in(tmp_path)) as service:
        service.submit(config("until_stopped"))
        waiting = service.submit(config("complete"))
        service.pause(waiting.id)
        assert waiting.state == "paused"
        service.resume(waiting.id)
        assert waiting.state == "queued"
        with pytest.raises(RunConflictError, match="no training process"):
            service.cull(waiting.id, "s")
        assert accepted(waiting.folder) == []
        service.stop(waiting.id)
        assert waiting.state == "stopped"
        for deed in (service.pause, service.resume, service.stop):
            with pytest.raises(RunConflictError, match="is stopped"):
                deed(waiting.id)


async def test_an_unknown_run_is_named(tmp_path: Path) -> None:
    async with running(service_in(tmp_path)) as service:
        with pytest.raises(RunNotFoundError, match="r-404"):
            service.pause("r-404")


async def test_an_ended_run_is_removed_once_it_was_kept_long_enough(tmp_path: Path) -> None:
    service = service_in(tmp_path, ended_runs_kept_s=0.001)
    async with running(service):
        run = service.submit(config("complete"))
        await service.wait_ended(run.id)
    assert run.folder.exists()  # the sweep at the start came before, the next is an hour away
    again = service_in(tmp_path, ended_runs_kept_s=0.001)
    async with running(again):
        await until(lambda: not again.runs())
    assert not run.folder.exists()


async def test_a_run_that_the_disk_has_not_taken_yet_is_removed_only_after_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[list[str]] = []

    def noted(store: RunStore, runs: Sequence[Run], *how_long: Any) -> Swept:
        looked.append([run.id for run in runs])
        return sweep(store, runs, *how_long)

    monkeypatch.setattr("esper_async.tolaria.service.sweep", noted)
    monkeypatch.setattr("esper_async.tolaria.service._SWEEP_EVERY_S", 0.01)
    monkeypatch.setattr("esper_async.tolaria.service._SAVE_AGAIN_S", 0.01)
    async with running(service_in(tmp_path, ended_runs_kept_s=0.001)) as service:
        with monkeypatch.context() as disk:
            run = service.submit(config("complete"))
            disk.setattr(service.store, "save", refuse)
            await service.wait_ended(run.id)
            looked.clear()
            await until(lambda: len(looked) > 3)
            assert looked[1:4] == [[], [], []]
            assert run.folder.exists()
        await until(lambda: not service.runs())
        assert not run.folder.exists()
