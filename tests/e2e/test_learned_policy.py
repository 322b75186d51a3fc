"""Learned policies in their real processes: staged, asked in the shadow, deciding, taken back."""

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esper_async.simic.registry import PolicyRegistry
from esper_async.tamiyo.offer import PLACEMENT_WIDTH
from esper_async.tamiyo.policies.learned import digest_of, document_of
from esper_async.tamiyo.policies.softmax_ensemble import SoftmaxEnsemble
from esper_async.tamiyo.published import SHIPPED
from esper_async.testing.harness import Esper
from tests.cli.conftest import Up
from tests.cli.test_up import wait_for_epoch
from tests.e2e.conftest import as_toml, records, run_of
from tests.simic.test_registry import LINEAGE, record

pytestmark = [pytest.mark.timeout(600), pytest.mark.full]
QUICK = {"tamiyo.shadow_states": 10, "tamiyo.watch_boundaries": 10}


def publish(state_dir: Path, weight: float) -> tuple[str, str]:
    """Publish an ensemble; return its id and the version of the policy that decides by it."""
    ensemble = SoftmaxEnsemble(np.full((2, PLACEMENT_WIDTH), weight), np.zeros(PLACEMENT_WIDTH))
    kept = PolicyRegistry.of(state_dir)
    active = kept.book().active_of("placement-1")
    entry = kept.submit(document_of(ensemble, lineage=LINEAGE), record(active))
    return entry.id, f"1+{digest_of(ensemble)}"


def learned(**further: Any) -> dict[str, Any]:
    asked = run_of("table_mlp", **further)
    asked["growth"]["policy"] = "learned"
    return asked


def folder_of(esper: Esper, run_id: str) -> Path:
    return esper.state_dir / "runs" / run_id


async def told(esper: Esper, what: str, policy_id: str) -> None:
    """Wait until the desk's history says something of a policy."""

    async def says() -> bool:
        async with esper.http.get("/api/policies/history") as answer:
            found = await answer.json()
        return any((each["what"], each["id"]) == (what, policy_id) for each in found)

    async with asyncio.timeout(60):
        while not await says():  # noqa: ASYNC110 - another process is awaited
            await asyncio.sleep(0.1)


async def test_what_was_published_is_asked_in_one_run_and_decides_in_the_next(
    esper: Esper,
) -> None:
    policy_id, version = publish(esper.state_dir, 1.0)
    await told(esper, "staged", policy_id)
    first = await esper.ended(await esper.submit(learned(epochs=22)))
    await told(esper, "activated", policy_id)
    second = await esper.ended(await esper.submit(learned()))
    assert [first["state"], second["state"]] == ["completed", "completed"]
    (shadowed,) = records(folder_of(esper, first["id"]), "policy_shadowed")
    assert shadowed["tally"]["new"]["illegal"] == 0
    pinned = json.loads((folder_of(esper, second["id"]) / "policy.json").read_text())
    assert pinned["version"] == policy_id
    decisions = records(folder_of(esper, second["id"]), "decision")
    assert {each["policy_version"] for each in decisions} == {version}
    assert {each["policy"] for each in decisions} == {"awr"}


@pytest.mark.esper(settings={**QUICK, "tamiyo.policy_activation": "boundary"})
async def test_killed_training_processes_and_a_restarted_service_take_an_update_once(
    esper: Esper,
) -> None:
    run_id = await esper.submit(learned(epochs=60))
    await esper.until(lambda s: s.run(run_id)["epoch"] >= 2)
    policy_id, version = publish(esper.state_dir, 1.0)
    await told(esper, "staged", policy_id)
    await kill(esper, run_id)
    await told(esper, "activated", policy_id)
    await kill(esper, run_id)
    run = await esper.ended(run_id)
    assert run["state"] == "completed"
    assert_taken_once(folder_of(esper, run_id), policy_id, version, last=60)


def test_killed_supervisors_lose_no_update_and_let_it_through_once(up: Up, tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(as_toml(learned(epochs=70)))
    settings = {
        "ESPER_TAMIYO__POLICY_ACTIVATION": "boundary",
        "ESPER_TAMIYO__SHADOW_STATES": "10",
        "ESPER_TOLARIA__NICE": "0",
    }
    first = up("--run", "run.toml", **settings)
    first.wait_ready()
    run_id = wait_for_epoch(first, 2)
    policy_id, version = publish(first.state_dir, 1.0)
    first.stop(signal.SIGKILL)  # before Simic has looked
    kept = PolicyRegistry.of(first.state_dir)
    for what in ("staged", "activated"):
        running = up("--no-run", **settings)
        running.wait_ready()
        wait_for_event(kept, what, policy_id)
        running.stop(signal.SIGKILL)
    last = up("--exit-when-done", "--no-run", **settings)
    assert last.process.wait(240) == 0
    wait_for_event(kept, "took over", policy_id)
    done = [each["what"] for each in kept.history() if each["id"] == policy_id]
    assert sorted(done) == sorted(["published", "staged", "activated", "took over", "settled"])
    assert_taken_once(first.state_dir / "runs" / run_id, policy_id, version, last=70)


def wait_for_event(kept: PolicyRegistry, what: str, policy_id: str) -> None:
    """Wait until the history on disk says something of a policy."""
    deadline = time.monotonic() + 120
    while (what, policy_id) not in {(each["what"], each["id"]) for each in kept.history()}:
        assert time.monotonic() < deadline, kept.history()
        time.sleep(0.1)


def assert_taken_once(folder: Path, policy_id: str, version: str, *, last: int) -> None:
    """A run took a policy over at one boundary, and it decided from there to the end."""
    (activated,) = records(folder, "policy_activated")
    assert (activated["version"], activated["former"]) == (policy_id, SHIPPED)
    decisions = records(folder, "decision")
    assert [each["boundary"] for each in decisions] == list(range(1, last + 1))
    by = [each["policy_version"] == version for each in decisions]
    taken = activated["boundary"]
    assert by == [False] * (taken - 1) + [True] * (last + 1 - taken)


async def kill(esper: Esper, run_id: str) -> None:
    """Kill a run's training process, and wait for the next one."""
    before = esper.faults.kill(f"train-{run_id}")
    await esper.until(lambda s: esper.services.tolaria.get(run_id).pid not in (None, before))
