"""The harness boots the real thing, shows it, and leaves nothing behind."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from esper_async.oona.connection import connect
from esper_async.runtime.processes import children
from esper_async.testing.harness import Esper, LeakError


async def test_it_boots_everything_with_a_redis_of_its_own(esper: Esper) -> None:
    assert esper.state().ready
    assert esper.services.oona.server is not None
    assert esper.services.oona.server.pid in children()
    document = await esper.get("/readyz")
    assert document["status"] == "ready"
    assert "torch" not in document


async def test_a_condition_that_never_holds_says_how_things_stood(esper: Esper) -> None:
    with pytest.raises(AssertionError, match="status ready, runs: none"):
        await esper.until(lambda s: s.runs, timeout_s=0.1)


@pytest.mark.esper(fake_clock=True, settings={"nissa.alert_every_s": 7})
async def test_a_fake_clock_moves_only_when_told_to(esper: Esper) -> None:
    before = esper.clock.monotonic()
    assert (await esper.get("/healthz"))["status"] == "alive"
    assert esper.clock.monotonic() == before
    await esper.advance(7.0)
    assert esper.clock.monotonic() == before + 7.0


async def test_redis_can_be_taken_away_and_given_back(esper: Esper) -> None:
    server = esper.services.oona.server
    assert server is not None
    first = server.pid
    await esper.faults.stop_redis()
    await asyncio.sleep(0.5)
    assert server.pid is None
    await esper.faults.start_redis()
    assert server.pid not in (None, first)
    killed = await esper.faults.kill_redis()
    await esper.until(lambda _: server.pid not in (None, killed))


async def test_a_frozen_redis_leaves_the_probes_answering(esper: Esper) -> None:
    await esper.faults.freeze_redis()
    assert (await esper.get("/healthz"))["status"] == "alive"
    assert (await esper.get("/readyz"))["status"] == "ready"
    esper.faults.thaw()


async def test_a_full_disk_fails_writes_until_it_is_emptied(esper: Esper, tmp_path: Path) -> None:
    esper.faults.fill_disk()
    with pytest.raises(OSError, match="File too large"):
        (tmp_path / "note").write_text("lost")
    assert (await esper.get("/healthz"))["status"] == "alive"
    esper.faults.empty_disk()
    (tmp_path / "note").write_text("kept")


async def test_messages_can_be_delayed(esper: Esper) -> None:
    clock = asyncio.get_running_loop().time
    client = connect(esper.services.oona.url, timeout_s=10.0)
    try:
        await client.ping()
        begun = clock()
        await esper.faults.delay(0.3)
        await client.ping()
        assert clock() - begun >= 0.3
    finally:
        await client.aclose()


async def test_a_child_that_does_not_exist_is_named(esper: Esper) -> None:
    with pytest.raises(LookupError, match="no child 'train-'"):
        esper.faults.kill("train-")


async def test_what_outlives_the_supervisor_is_named(esper: Esper) -> None:
    child = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220 - the leak on purpose
    try:
        with pytest.raises(LeakError, match="sleep 60"):
            await esper.close()
    finally:
        child.kill()
        child.wait()


async def test_a_task_that_nobody_ended_is_named(esper: Esper) -> None:
    task = asyncio.create_task(asyncio.Event().wait(), name="forgotten")
    with pytest.raises(LeakError, match="task forgotten"):
        await esper.close()
    task.cancel()


def test_the_plugin_imports_nothing_heavy() -> None:
    code = (
        "import sys, esper_async.testing.plugin; "
        "print([m for m in ('torch', 'aiohttp', 'redis', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=os.environ
    )
    assert done.stdout.strip() == "[]"
