"""The gate: what is no worse in fresh runs is published; all else is kept with the reason."""

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from esper_async.runtime.strict_model import ConfigurationError
from esper_async.simic.registry import PolicyRegistry
from esper_async.study.cell import CellResult
from esper_async.study.gate import judging
from esper_async.study.gate.judging import ActivePolicyError, NothingNewError, Verdict, judge
from esper_async.study.gate.plan import GatePlan, load_gate
from esper_async.study.gate.replay import (
    Pair,
    Replay,
    compared,
    replayed_cells,
    run_replay,
    score_of,
)
from esper_async.tamiyo.offer import PLACEMENT_WIDTH
from esper_async.tamiyo.policies.learned import document_of
from esper_async.tamiyo.policies.softmax_ensemble import SoftmaxEnsemble
from esper_async.tamiyo.published import SHIPPED, content_path, registry_path
from tests.simic.experienced import RUNS, experienced
from tests.simic.test_registry import LINEAGE

HERE = Path(__file__).parent
QUICK = {
    "dwell_steps": 2,
    "ramp_boundaries": 1,
    "window_boundaries": 1,
    "shadow_every": 1,
    "parameter_budget": 50.0,
}


def prefers(size: float) -> dict[str, Any]:
    """Return the document of a policy that plants what is large, or what is small."""
    weights = np.zeros((2, PLACEMENT_WIDTH))
    weights[:, 1] = size
    ensemble = SoftmaxEnsemble(weights, np.zeros(PLACEMENT_WIDTH))
    return document_of(ensemble, lineage={**LINEAGE, "runs": []})


LARGE, SMALL = prefers(50.0), prefers(-50.0)
"""On a linear host the large one has a nonlinearity, and the small one is a norm."""


def plan(**more: Any) -> GatePlan:
    task = {"task": f"{HERE}/xor_task.py:make_task", "epochs": 20, "rate": 0.03}
    return GatePlan.model_validate({
        "name": "xor", "runs": 4, "first_seed": 60, "blueprints": ["BP003", "BP009"],
        "growth": QUICK, "tasks": {"xor": task}, **more,
    })  # fmt: skip


class Gate:
    """A state directory whose active policy plants what is small."""

    def __init__(self, state_dir: Path) -> None:
        self.state_dir = state_dir
        self.told: list[str] = []
        experienced(state_dir)
        self.registry = PolicyRegistry.of(state_dir)
        first = {"passes": True, "reasons": [], "active": SHIPPED}
        self.small = self.registry.submit(SMALL, first).id

    def judge(self, document: dict[str, Any], asked: GatePlan | None = None) -> Verdict:
        self.told = []
        return judge(
            self.state_dir, document, asked or plan(), workers=1, nice=0, tell=self.told.append
        )

    @property
    def active(self) -> str:
        return self.registry.book().active_of("placement-1")


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gate, Verdict]]:
    """A gate through which the better policy has gone."""
    gate = Gate(tmp_path_factory.mktemp("gate"))
    yield gate, gate.judge(LARGE)


def test_what_is_better_in_fresh_runs_is_published_with_the_whole_record(
    judged: tuple[Gate, Verdict],
) -> None:
    gate, verdict = judged
    assert verdict.published
    assert (gate.active, verdict.entry.parent) == (verdict.entry.id, gate.small)
    record = gate.registry.record(verdict.entry.id)
    assert record == json.loads(json.dumps(verdict.record))
    assert record["replay"]["difference"]["low"] > 0.3
    assert [pair["seed"] for pair in record["replay"]["pairs"]] == [60, 61, 62, 63]
    assert record["plan"]["hash"] == plan().hash
    calibration = record["calibration"]
    assert calibration["measured"] == record["replay"]["reward"] > 0.0
    assert calibration["within"] == (
        calibration["low"] <= calibration["measured"] <= calibration["high"]
    )


def test_what_is_worse_is_kept_with_the_reason_and_no_run_is_made_twice(
    judged: tuple[Gate, Verdict],
) -> None:
    gate, verdict = judged
    taught = {**LINEAGE, "runs": [f"run{number}" for number in range(RUNS)]}
    worse = gate.judge({**SMALL, "lineage": taught})
    assert worse.record["estimate"]["refusals"]  # every run there is has taught it
    assert not worse.published
    assert gate.active == verdict.entry.id
    assert gate.registry.record(worse.entry.id)["reasons"] == worse.record["reasons"]
    assert "the lower end is below 0" in worse.record["reasons"][0]
    assert worse.record["replay"]["difference"]["value"] < -0.3
    assert worse.record["calibration"]["within"] is None
    assert gate.told == []


def test_what_decides_as_the_active_policy_is_nothing_new(judged: tuple[Gate, Verdict]) -> None:
    gate, _ = judged
    with pytest.raises(NothingNewError, match=gate.active):
        gate.judge({**LARGE, "lineage": {**LARGE["lineage"], "data": "other"}})


def test_runs_without_a_result_publish_nothing(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    broken = {"task": f"{HERE}/small_task.py:make_broken", "epochs": 2}
    verdict = gate.judge(LARGE, plan(tasks={"small": broken}, first_seed=0))
    assert not verdict.published
    assert verdict.record["reasons"][0] == "1 of 4 pairs of runs have no result"
    assert any("seed 1 is broken" in reason for reason in verdict.record["reasons"])
    assert gate.active == gate.small


def test_what_is_surely_worse_by_runs_that_were_made_costs_no_fresh_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*arguments: Any, **more: Any) -> Replay:
        raise AssertionError("a run was made")

    gate = Gate(tmp_path)
    monkeypatch.setattr(judging, "run_replay", never)
    helpful, harmful = found_by(tmp_path)
    gate.registry.submit(helpful, {"passes": True, "reasons": [], "active": gate.small})
    verdict = gate.judge(harmful)
    assert not verdict.published
    assert "no run was made" in verdict.record["reasons"][0]
    assert verdict.record["replay"] is None


def found_by(state_dir: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return what is learned from the experience there, and its opposite."""
    from esper_async.simic.learn import learn_into

    path = state_dir / "awr.json"
    learn_into(state_dir, path, keep_back=0.5, lineage={"code": "c", "command": "learn"})
    document = json.loads(path.read_text())
    weights = (-np.array(document["weights"])).tolist()
    return document, {**document, "weights": weights}


def losses(new: list[float], active: list[float]) -> Replay:
    """Return what pairs of runs with these losses say."""
    both = enumerate(zip(new, active, strict=True))
    return compared(plan(runs=len(new)), [Pair("xor", seed, *pair) for seed, pair in both])


def test_a_score_that_is_no_number_is_none() -> None:
    cost = dict.fromkeys(("host_macs", "shadow_macs", "judging_macs", "twin_macs"), 0.0)
    whole = CellResult(
        score=0.5, validation=0.5, parameters=1, epochs=1, steps=1, culled_macs=0.0, wall_s=0.0,
        peak_memory_bytes=0, **cost,
    )  # fmt: skip
    scores = (0.5, None, float("nan"), float("inf"))
    found = [score_of(replace(whole, score=score)) for score in scores]
    assert found == [0.5, None, None, None]
    assert score_of(None) is None


def test_only_an_interval_that_does_not_reach_below_nought_is_no_worse() -> None:
    alike = [1.0] * 8
    for shift, expected in ((0.01, True), (0.0, True), (-0.01, False)):
        assert losses([each - shift for each in alike], alike).no_worse is expected
    found = losses([0.0, 2.0, 0.0, 2.0, 0.0, 0.5, 0.0, 0.5], alike)
    assert found.difference is not None
    assert found.difference.value > 0.0 > found.difference.low  # better, and not for sure
    assert not found.no_worse


def test_an_active_policy_that_was_changed_is_compared_with_nothing(tmp_path: Path) -> None:
    gate = Gate(tmp_path)
    sha256 = gate.registry.book().entries[gate.small].sha256
    content_path(registry_path(tmp_path), sha256).write_text("{}")
    with pytest.raises(ActivePolicyError, match="`policies rollback`"):
        gate.judge(LARGE)


def test_the_runs_of_a_pair_differ_in_their_policy_alone() -> None:
    new, active = replayed_cells(plan(), LARGE, SMALL)[:2]
    assert {**asdict(new), "arm": None, "arm_name": None} == {
        **asdict(active),
        "arm": None,
        "arm_name": None,
    }
    decide_by = [{**each, "lineage": None} for each in (LARGE, SMALL)]
    assert [{**each.arm["learned"], "lineage": None} for each in (new, active)] == decide_by
    assert new.tunes
    assert new.key("code") != active.key("code")


def test_a_gate_that_comes_along_takes_seeds_that_neither_teach_nor_judge(tmp_path: Path) -> None:
    shipped = load_gate(None)
    assert not set(shipped.seeds) & {*range(20, 50), *range(1_000, 1_100)}
    wrong = tmp_path / "gate.toml"
    wrong.write_text('name = "g"\nruns = 2\nrun = 3\n[tasks.t]\ntask = "nowhere"\nepochs = 1\n')
    with pytest.raises(ConfigurationError) as told:
        load_gate(wrong)
    assert "did you mean 'runs'" in str(told.value) or "runs" in str(told.value)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        load_gate(tmp_path / "nowhere.toml")


def test_a_worker_that_dies_is_replaced_and_the_pairs_are_whole(tmp_path: Path) -> None:
    mortal = {
        "task": f"{HERE}/small_task.py:make_mortal",
        "epochs": 1,
        "options": {"marker": str(tmp_path / "died")},
    }
    asked = plan(tasks={"small": mortal}, first_seed=0)
    found = run_replay(
        asked, LARGE, SMALL, tmp_path / "replays", workers=1, nice=0, tell=lambda line: None
    )
    assert (tmp_path / "died").exists()
    assert found.failures == {}
    assert all(pair.new is not None and pair.new == pair.active for pair in found.pairs)
    assert found.pairs[0] == Pair("small", 0, found.pairs[0].new, found.pairs[0].active)
