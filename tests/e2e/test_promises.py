"""What an operator was told 202 for is done, whichever process is killed in between."""

import asyncio
import json
import os
import signal
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from esper_async.testing.harness import Esper
from tests.cli.conftest import Running, Up
from tests.cli.test_up import train_pid, wait_for_epoch
from tests.e2e.conftest import as_toml, only_run, records, run_of

pytestmark = pytest.mark.timeout(600)
_REMOVABLE = ("TRAINING", "BLENDING", "SHADOWING", "PROBATIONARY")


def removable(folder: Path) -> str:
    """A seed that can be culled, by the run's last boundary; empty without one."""
    boundaries = records(folder, "boundary")
    seeds = boundaries[-1]["seeds"] if boundaries else []
    return next((str(seed["id"]) for seed in seeds if seed["stage"] in _REMOVABLE), "")


def answers(folder: Path) -> list[tuple[int, str]]:
    """Which requests the journal says were met, and for which seed."""
    told = [r for r in records(folder, "decision") if r["policy"] == "operator"]
    return [(record["request"], record["command"]["target"]) for record in told]


def ends(folder: Path, seed: str) -> list[dict[str, Any]]:
    return [
        record
        for record in records(folder, "transition")
        if record["seed"] == seed and record["to_stage"] == "CULLED"
    ]


def wait_for(condition: Callable[[], object], timeout_s: float = 120.0) -> None:
    """Poll gently: training gives way to everything else on this machine."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def seeds_shown(running: Running, run_id: str) -> list[str]:
    with urllib.request.urlopen(running.url(f"/api/runs/{run_id}/seeds"), timeout=5) as answer:
        return [seed["id"] for seed in json.load(answer)]


@pytest.mark.esper(settings={"tolaria.nice": 0})
async def test_a_cull_is_carried_out_though_its_training_process_dies_before_it_reads_it(
    esper: Esper,
) -> None:
    run_id = await esper.submit(run_of("table_mlp"))
    folder = esper.state_dir / "runs" / run_id
    await esper.until(lambda _: removable(folder), 120)
    esper.faults.freeze(f"train-{run_id}")
    seed = removable(folder)
    hub = esper.services.tamiyo.hub
    while seed not in (await hub.picture(run_id)).seeds:  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    async with esper.http.post(f"/api/runs/{run_id}/seeds/{seed}/cull") as answer:
        assert answer.status == 202
    esper.faults.kill(f"train-{run_id}")
    run = await esper.ended(run_id)

    assert (run["state"], esper.services.tolaria.get(run_id).resumes) == ("completed", 1)
    assert answers(folder) == [(1, seed)]
    assert len(ends(folder, seed)) == 1


def test_a_cull_is_carried_out_though_the_supervisor_is_killed_after_it_said_so(
    up: Up, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(as_toml(run_of("table_mlp")))
    first = up("--run", "run.toml", ESPER_TOLARIA__NICE="0")
    first.wait_ready()
    run_id = wait_for_epoch(first, 1)
    folder = only_run(first.state_dir)
    wait_for(lambda: removable(folder))
    os.kill(train_pid(first.process.pid), signal.SIGSTOP)
    seed = removable(folder)
    wait_for(lambda: seed in seeds_shown(first, run_id))
    request = urllib.request.Request(
        first.url(f"/api/runs/{run_id}/seeds/{seed}/cull"),
        headers={"Authorization": f"Bearer {(first.state_dir / 'token').read_text().strip()}"},
        method="POST",
    )
    with urllib.request.urlopen(request, timeout=10) as answer:
        assert answer.status == 202
    assert first.stop(signal.SIGKILL) == -signal.SIGKILL
    assert answers(folder) == []

    second = up("--exit-when-done", ESPER_TOLARIA__NICE="0")
    assert second.process.wait(240) == 0
    assert answers(folder) == [(1, seed)]
    assert len(ends(folder, seed)) == 1
