"""The forge does what was asked once, outlives its worker, and says how it went."""

import ast
import asyncio
import functools
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import esper_async.tezzeret
from esper_async.leyline import KernelError, KernelReady, SiteInterface
from esper_async.tezzeret.fingerprint import forge_fingerprint
from esper_async.tezzeret.settings import ForgeSettings
from esper_async.urza import Library
from tests.tezzeret.live_forge import (
    ROOT,
    Live,
    forge,
    has_proved,
    request,
    until,
)
from tests.tezzeret.quiet_bus import QuietBus


def jobs(live: Live) -> dict[str, int]:
    return live.service.detail()["jobs"]  # type: ignore[return-value]


async def test_with_nothing_asked_it_idles_without_a_worker_and_says_so(tmp_path: Path):
    async with forge(tmp_path) as live:
        detail = live.service.detail()
        assert detail["doing"] == "idle: nobody has asked for a kernel yet"
        assert detail["worker_pids"] == []
        assert detail["workers_started"] == 0


@pytest.mark.parametrize(("size", "kept"), [(1 << 20, True), (600 << 20, False)])
async def test_the_compilers_cache_is_emptied_at_the_start_where_it_is_large(
    tmp_path: Path, size: int, kept: bool
):
    header = tmp_path / "tezzeret" / "inductor" / "precompiled_headers" / "header.gch"
    header.parent.mkdir(parents=True)
    with header.open("wb") as file:
        file.truncate(size)
    async with forge(tmp_path):
        assert header.exists() is kept


async def test_a_request_is_answered_and_then_the_rest_of_the_interface_is_proved(tmp_path: Path):
    async with forge(tmp_path) as live:
        await live.bus.deliver(request("BP002"))
        ready = await live.answered("ask-BP002")
        assert isinstance(ready, KernelReady)
        assert ready.certificate_key == "BP002-spatial-8x4x4-float32-contiguous"
        assert (ready.parameters, ready.forward_ms, ready.backward_ms) == (12, 0.5, 0.75)
        assert not ready.HasField("memory_bytes")
        await until(lambda: jobs(live) == {"done": 4})
        assert live.proved() == ["BP002", "BP001", "BP003"]
        assert live.service.detail()["interfaces"] == 1
        assert live.service.detail()["workers_started"] == 1
    library = Library(tmp_path / "urza")
    assert library.certificate(ready.certificate_key)["passed"] is True
    library.close()


async def test_the_same_request_delivered_again_is_neither_worked_nor_answered_twice(
    tmp_path: Path,
):
    async with forge(tmp_path) as live:
        for _ in range(3):
            await live.bus.deliver(request("BP002"))
        await until(lambda: jobs(live) == {"done": 4})
        await live.bus.deliver(request("BP002", "second"))
        await live.answered("second")
        assert live.answer("ask-BP002") is not None
        assert live.proved().count("BP002") == 1


async def test_a_kernel_that_was_not_proved_is_answered_with_what_failed(tmp_path: Path):
    async with forge(tmp_path) as live:
        await live.bus.deliver(request("unproved"))
        error = await live.answered("ask-unproved")
        assert isinstance(error, KernelError)
        assert error.reason == "not near identity; no gradient"
        assert not error.retryable


async def test_a_refused_blueprint_is_not_tried_again(tmp_path: Path):
    async with forge(tmp_path) as live:
        await live.bus.deliver(request("refused"))
        error = await live.answered("ask-refused")
        assert isinstance(error, KernelError)
        assert "adversarial" in error.reason
        assert error.attempts == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"interface": SiteInterface(kind="spherical", shape=[1])}, "spherical"),
        ({"interface": SiteInterface(kind="spatial", shape=[1])}, "3 dimensions"),
        ({"torch_version": "1.13.0"}, "asked for torch 1.13.0"),
    ],
)
async def test_a_request_that_can_never_be_met_is_refused_at_once(
    tmp_path: Path, changes: dict[str, object], words: str
):
    async with forge(tmp_path) as live:
        await live.bus.deliver(request("BP001", **changes))
        error = await live.answered("ask-BP001")
        assert words in error.reason
        assert live.service.detail()["workers_started"] == 0


async def test_a_job_that_kills_its_worker_fails_after_its_attempts_and_others_go_on(
    tmp_path: Path,
):
    async with forge(tmp_path) as live:
        await live.bus.deliver(request("dies"))
        await live.bus.deliver(request("BP001"))
        error = await live.answered("ask-dies")
        assert isinstance(error, KernelError)
        assert error.attempts == 3
        assert "SIGKILL" in error.reason
        assert isinstance(await live.answered("ask-BP001"), KernelReady)


async def test_a_worker_killed_over_a_job_is_replaced_and_the_job_done(tmp_path: Path):
    async with forge(tmp_path) as live:
        await live.bus.deliver(request("dies-once"))
        assert isinstance(await live.answered("ask-dies-once"), KernelReady)
        assert live.service.detail()["workers_started"] == 2


async def test_a_job_past_its_limit_is_killed_and_no_worker_outlives_it(tmp_path: Path):
    settings = ForgeSettings(
        job_limit_s=0.3, start_limit_s=20.0, max_attempts=1, retry_s=0.01, nice=0
    )
    async with forge(tmp_path, settings=settings) as live:
        await live.bus.deliver(request("hangs"))
        await until(lambda: live.service.detail()["worker_pids"])
        (pid,) = live.service.detail()["worker_pids"]  # type: ignore[misc]
        error = await live.answered("ask-hangs")
        assert "no result within 0.3 s" in error.reason
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)  # type: ignore[arg-type]


async def test_a_result_that_could_not_be_stored_costs_no_attempt(tmp_path: Path):
    settings = ForgeSettings(start_limit_s=20.0, max_attempts=1, retry_s=0.01, nice=0)
    async with forge(tmp_path, settings=settings) as live:
        await live.bus.deliver(request("unstored"))
        assert isinstance(await live.answered("ask-unstored"), KernelReady)


async def test_answers_wait_for_the_bus_to_come_back(tmp_path: Path):
    async with forge(tmp_path, bus=QuietBus(failing=3)) as live:
        await live.bus.deliver(request("BP001"))
        assert isinstance(await live.answered("ask-BP001"), KernelReady)


async def test_a_worker_that_cannot_start_blames_no_job_and_opens_the_breaker(tmp_path: Path):
    async with forge(tmp_path, target="never_warm") as live:
        await live.bus.deliver(request("BP001"))
        await until(lambda: live.service.breakers.states()["tezzeret.worker"] == "open")
        await until(lambda: jobs(live).get("failed", 0) == 0)
        assert live.answer("ask-BP001") is None
    async with forge(tmp_path) as live:
        await until(lambda: len(live.proved()) == 3)


async def test_an_idle_worker_is_stopped(tmp_path: Path):
    settings = ForgeSettings(start_limit_s=20.0, idle_s=0.05, retry_s=0.01, nice=0)
    async with forge(tmp_path, settings=settings) as live:
        await live.bus.deliver(request("BP001"))
        await until(lambda: jobs(live) == {"done": 4})
        await until(lambda: live.service.detail()["worker_pids"] == [])


async def test_a_second_start_proves_nothing_and_starts_no_worker(tmp_path: Path):
    async with forge(tmp_path) as live:
        await live.bus.deliver(request("BP001"))
        await until(lambda: jobs(live) == {"done": 4})
        await until(lambda: len(live.bus.published) == 3)
    async with forge(tmp_path) as live:
        await live.bus.deliver(request("BP002", "again"))
        assert isinstance(await live.answered("again"), KernelReady)
        assert live.service.detail()["workers_started"] == 0
        assert sorted(live.proved()) == ["BP001", "BP002", "BP003"]


async def test_what_the_library_lost_is_proved_again(tmp_path: Path):
    async with forge(tmp_path) as live:
        await live.bus.deliver(request("BP001"))
        await until(lambda: jobs(live) == {"done": 4})
        library = Library(tmp_path / "urza")
        key = "BP001-spatial-8x4x4-float32-contiguous"
        path = library._shelves._blobs.path(library.get(key).blob)
        path.write_bytes(b"x" + path.read_bytes()[1:])
        assert library.certificate(key) is None
        await until(lambda: library.certificate(key) is not None)
        assert live.proved().count("BP001") == 2
        library.close()


async def test_new_code_makes_new_work_for_the_interfaces_in_use(tmp_path: Path):
    async with forge(tmp_path) as live:
        await live.bus.deliver(request("BP001"))
        await until(lambda: jobs(live) == {"done": 4})
    async with forge(tmp_path, fingerprint="other code") as live:
        await until(lambda: jobs(live) == {"done": 8})


def test_the_fingerprint_follows_torch_and_the_sources_of_kernels_and_proof(tmp_path: Path):
    kernel = tmp_path / "kernels" / "one.py"
    kernel.parent.mkdir()
    kernel.write_text("a = 1\n")
    before = forge_fingerprint(tmp_path, "2.8.0")
    assert forge_fingerprint(tmp_path, "2.8.0") == before
    assert forge_fingerprint(tmp_path, "2.8.1") != before
    kernel.write_text("a = 2\n")
    assert forge_fingerprint(tmp_path, "2.8.0") != before


def test_no_module_of_the_service_imports_torch():
    services = "esper_async.tezzeret.service, esper_async.urza.service, esper_async.simic.service"
    code = f"import sys, {services}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    folder = Path(next(iter(esper_async.tezzeret.__path__)))
    importers = [
        path.name
        for path in folder.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Import) and any(name.name == "torch" for name in node.names)
    ]
    assert sorted(importers) == ["compilation.py", "worker.py"]


SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from tests.tezzeret.live_forge import (
    QUICK, ROOT, Live, forge, has_proved, request, until,
)
from tests.tezzeret.quiet_bus import QuietBus
from tests.tezzeret.live_forge import QUICK, ROOT, request, until
from esper_async.tezzeret.service import TezzeretService

async def main():
    bus = QuietBus()
    service = TezzeretService(
        Path(sys.argv[1]), bus, settings=QUICK,
        worker_target="tests.tezzeret.workers:scripted", environment={"PYTHONPATH": ROOT},
        fingerprint=lambda: "code",
    )
    task = asyncio.create_task(service.run(lambda: None))
    await until(lambda: bus.handler is not None)
    for number in range(12):
        await bus.deliver(request(f"job-{number}"))
    await task

asyncio.run(main())
"""


async def test_a_forge_killed_at_any_instant_resumes_and_repeats_nothing_finished(tmp_path: Path):
    """The whole forge, with SIGKILL, three times; each certificate is proved once."""
    for kill_after in (1, 4, 8):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SUPERVISOR, str(tmp_path), cwd=ROOT, env=_environment()
        )
        await until(functools.partial(has_proved, tmp_path, kill_after))
        process.send_signal(signal.SIGKILL)
        await process.wait()
    async with forge(tmp_path) as live:
        await until(lambda: jobs(live) == {"done": 16})
        assert sorted(live.proved()) == sorted(
            [f"job-{number}" for number in range(12)] + ["BP001", "BP002", "BP003"]
        )


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ROOT}
