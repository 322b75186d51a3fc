"""Emergencies end to end: the API, the real supervisor, a real training process, a real bus."""

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from esper_async.testing.harness import Esper
from tests.e2e.conftest import digest, only_run, records, run_of

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.esper(settings={"tolaria.nice": 0}),
]

BATCHES = 8
_TASK = """
import time
from math import nan

import torch
from torch import nn
from torch.nn import functional as F

from esper_async import Task

calls = 0


def loss(output, target, reduction="mean"):
    global calls
    value = F.cross_entropy(output, target, reduction=reduction)
    if torch.is_grad_enabled():
        calls += 1
        SPOILS
    return value


def make_task():
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(16, 4, generator=generator), torch.randint(0, 3, (16,), generator=generator))
        for _ in range(BATCHES)
    ]
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    return Task(model=model, train_loader=data, validation_loader=data[:2], loss=loss)
"""


async def send(esper: Esper, run_id: str, level: str) -> None:
    body = {"level": level, "reason": "the drill"}
    async with esper.http.post(f"/api/runs/{run_id}/emergency", json=body) as answer:
        assert answer.status == 202, await answer.text()


def taken_in(state_dir: Path) -> list[str]:
    """The ids of the signals that Tolaria has heard, each once."""
    with closing(sqlite3.connect(state_dir / "tolaria" / "effects.sqlite")) as database:
        return [str(row[0]) for row in database.execute("SELECT event_id FROM seen_events")]


async def metric(esper: Esper, name: str) -> list[str]:
    async with esper.http.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return [line for line in lines if line.startswith(name)]


async def test_a_frozen_run_takes_no_step_and_ends_bitwise_as_one_that_was_never_frozen(
    esper: Esper, uninterrupted: Path
) -> None:
    run_id = await esper.submit(run_of("table_mlp"))
    tolaria = esper.services.tolaria
    await esper.until(lambda s: (s.run(run_id)["epoch"] or 0) >= 3, 120)
    await send(esper, run_id, "critical")
    await esper.until(lambda _: tolaria.progress(run_id).get("paused"))
    step = tolaria.progress(run_id)["step"]
    folder = only_run(esper.state_dir)
    await esper.until(lambda _: records(folder, "emergency"))
    assert esper.state().run(run_id)["state"] == "paused"
    assert tolaria.progress(run_id)["step"] == step

    async with esper.http.post(f"/api/runs/{run_id}/resume") as answer:
        assert answer.status == 202
    run = await esper.ended(run_id)
    assert (run["state"], tolaria.get(run_id).resumes) == ("completed", 0)
    (told,) = records(folder, "emergency")
    assert (told["level"], told["by"]) == ("CRITICAL", "operator")
    assert told["reason"] == "the drill (told by operator)"
    assert records(folder, "paused")[0]["step"] == records(folder, "resumed")[0]["step"] == step
    assert digest(folder) == digest(uninterrupted)
    assert await esper.services.oona.dead_letters.list() == []
    assert len(taken_in(esper.state_dir)) == 2  # the operator's, and the run's own word on it
    assert any('level="CRITICAL"' in line for line in await metric(esper, "esper_tolaria_emerg"))


async def test_each_lesser_level_has_its_effect_once_and_is_told(
    esper: Esper, tmp_path: Path
) -> None:
    run_id = await esper.submit(plain_run(tmp_path, "time.sleep(0.01)", epochs=20))
    folder = only_run(esper.state_dir)

    def met(request: int) -> bool:
        kinds = ("emergency", "rollback", "command_refused")
        return any(r.get("request") == request for kind in kinds for r in records(folder, kind))

    for number, (level, epoch) in enumerate((("minor", 2), ("severe", 4), ("major", 7)), start=1):
        wanted = epoch
        await esper.until(lambda s, wanted=wanted: (s.run(run_id)["epoch"] or 0) >= wanted, 120)
        await send(esper, run_id, level)
        await esper.until(lambda _, number=number: met(number), 60)
    run = await esper.ended(run_id)
    assert run["state"] == "completed"
    assert [record["level"] for record in records(folder, "emergency")] == [
        "MINOR",
        "SEVERE",
        "MAJOR",
    ]
    severe, major = records(folder, "rollback")
    found = [(back["cause"], back["rate_factor"]) for back in (severe, major)]
    assert found == [("emergency", 0.5), ("emergency", 0.25)]
    between = severe["step"] % BATCHES  # at a boundary the state in memory is where the run is
    assert severe["source"] == ("memory" if between else "disk")
    assert major["source"] == "disk"
    assert records(folder, "command_refused") == []
    events = await esper.get("/api/events?q=emergency&limit=1000")
    heard = {(item["level"], item["name"]) for item in events}
    assert {("warning", "run.emergency"), ("critical", "run.emergency")} <= heard


def plain_run(folder: Path, spoils: str, *, epochs: int = 6) -> dict[str, Any]:
    """A run that does not grow; `spoils` is done to a loss's `value` at its call number `calls`."""
    path = folder / "plain.py"
    path.write_text(_TASK.replace("SPOILS", spoils).replace("BATCHES", str(BATCHES)))
    section = {
        "name": "plain", "task": f"{path}:make_task", "epochs": epochs, "seed": 1, "threads": 1
    }  # fmt: skip
    return {"run": section, "growth": {"policy": "static"}}


async def test_a_guards_emergency_goes_back_and_reaches_the_supervisor_as_a_signal(
    esper: Esper, tmp_path: Path
) -> None:
    run_id = await esper.submit(plain_run(tmp_path, "value = value * (nan if calls == 25 else 1)"))
    assert (await esper.ended(run_id))["state"] == "completed"
    folder = only_run(esper.state_dir)
    (told,) = records(folder, "emergency")
    assert (told["level"], told["by"]) == ("SEVERE", "guard")
    assert "the training loss is nan" in told["reason"]
    (back,) = records(folder, "rollback")
    assert (back["cause"], back["source"], back["to_boundary"]) == ("guard", "memory", 2)
    heard = f"EmergencySignal:{run_id}/{told['seq']}"
    await esper.until(lambda _: heard in taken_in(esper.state_dir))
    assert (run := esper.services.tolaria.get(run_id)).state == "completed", run.error


@pytest.mark.full
async def test_trouble_that_no_rollback_mends_stops_the_run_with_a_clear_report(
    esper: Esper, tmp_path: Path
) -> None:
    run_id = await esper.submit(plain_run(tmp_path, "value = value * (nan if calls >= 25 else 1)"))
    run = await esper.ended(run_id)
    assert run["state"] == "failed"
    assert "went back to boundary 2 and 1 and on at 0.25 of the learning rate" in run["error"]
    folder = only_run(esper.state_dir)
    assert [r["level"] for r in records(folder, "emergency")] == ["SEVERE", "MAJOR"]
    assert json.loads((folder / "result.json").read_text())["state"] == "failed"
    assert esper.services.tolaria.get(run_id).resumes == 0
