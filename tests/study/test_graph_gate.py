"""The gate for graph policies: sound and no worse in fresh runs, or not published."""

from pathlib import Path
from typing import Any

import pytest
import torch

from esper_async.simic.graph_soundness import STATES, graph_faults
from esper_async.simic.registry import PolicyRegistry
from esper_async.study.gate import graph_judging
from esper_async.study.gate.graph_judging import judge_graph
from esper_async.study.gate.judging import ActivePolicyError, NothingNewError, Verdict
from esper_async.study.gate.plan import GatePlan
from esper_async.study.gate.replay import Pair, Replay, compared
from esper_async.tamiyo.command import Cull, Decision
from esper_async.tamiyo.errors import CorruptPolicyError
from esper_async.tamiyo.network import PolicyNetwork
from esper_async.tamiyo.network.policy_file import save_policy
from esper_async.tamiyo.policies.graph import SHIPPED as SHIPPED_FILE
from esper_async.tamiyo.policies.graph import GraphPolicy
from esper_async.tamiyo.published import SHIPPED, content_path, registry_path
from esper_async.tamiyo.view import View
from tests.study.test_gate import HERE, plan

QUICK_TASK = {"task": f"{HERE}/small_task.py:make_task", "epochs": 2, "rate": 0.03}


def taught(folder: Path, name: str) -> Path:
    torch.manual_seed(sum(name.encode()))
    path = folder / f"{name}.policy"
    save_policy(PolicyNetwork(), path, name=name, lineage={"runs": ["r1"], "reward_version": 2})
    return path


def judged(state_dir: Path, file: Path, asked: GatePlan | None = None) -> Verdict:
    return judge_graph(
        state_dir, file, asked or plan(), command="test", workers=1, nice=0, tell=lambda _: None
    )


@pytest.fixture
def replays(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, Any]]:
    """Say of fresh runs that the new policy is better by the gain it asks for in its version."""
    asked: list[tuple[Any, Any]] = []

    def replay(plan: GatePlan, new: Any, active: Any, *_: Any, **__: Any) -> Replay:
        asked.append((new, active))
        gain = -0.1 if "worse" in GraphPolicy.unpack(0, new).version else 0.1
        pairs = [Pair("xor", seed, 1.0 - gain + seed / 1e3, 1.0) for seed in plan.seeds]
        return compared(plan, pairs)

    monkeypatch.setattr(graph_judging, "run_replay", replay)
    return asked


def test_what_is_better_is_published_for_the_features_of_graphs_alone(
    tmp_path: Path, replays: list[tuple[Any, Any]]
) -> None:
    first = judged(tmp_path, taught(tmp_path, "one"))
    kept = PolicyRegistry.of(tmp_path)
    assert first.published
    assert kept.book().active == {"graph-2": first.entry.id}
    assert first.entry.id.startswith("gnn-")
    assert first.entry.lineage["command"] == "test"
    second = judged(tmp_path, taught(tmp_path, "two"))
    assert (second.published, second.entry.parent) == (True, first.entry.id)
    assert replays[1][1]["file"] == replays[0][0]["file"]
    assert kept.book().active_of("placement-1") == SHIPPED


def test_what_is_worse_is_kept_with_the_reason(
    tmp_path: Path, replays: list[tuple[Any, Any]]
) -> None:
    verdict = judged(tmp_path, taught(tmp_path, "worse"))
    assert not verdict.published
    assert "the lower end is below 0" in verdict.record["reasons"][0]
    assert PolicyRegistry.of(tmp_path).record(verdict.entry.id)["passes"] is False


def test_what_is_not_sound_costs_no_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, replays: list[tuple[Any, Any]]
) -> None:
    monkeypatch.setattr(graph_judging, "graph_faults", lambda _: ["it raises"])
    verdict = judged(tmp_path, taught(tmp_path, "one"))
    assert (verdict.record["reasons"], replays) == (["it raises"], [])


def test_the_active_one_is_nothing_new_and_a_damaged_one_stops_the_gate(
    tmp_path: Path, replays: list[tuple[Any, Any]]
) -> None:
    with pytest.raises(NothingNewError, match="which is active"):
        judged(tmp_path, SHIPPED_FILE)
    first = judged(tmp_path, taught(tmp_path, "one"))
    with pytest.raises(NothingNewError, match=first.entry.id):
        judged(tmp_path, taught(tmp_path, "one"))
    content_path(registry_path(tmp_path), first.entry.sha256).write_text("{}")
    with pytest.raises(ActivePolicyError, match="policies activate shipped"):
        judged(tmp_path, taught(tmp_path, "two"))
    (tmp_path / "none.policy").write_bytes(b"nothing")
    with pytest.raises(CorruptPolicyError, match="it is no policy"):
        judged(tmp_path / "other", tmp_path / "none.policy")


def test_fresh_runs_are_decided_by_the_two_graph_policies(tmp_path: Path) -> None:
    asked = plan(tasks={"small": QUICK_TASK}, growth={})
    verdict = judged(tmp_path, taught(tmp_path, "one"), asked)
    replay = verdict.record["replay"]
    assert replay["failures"] == {}
    assert all(None not in (pair["new"], pair["active"]) for pair in replay["pairs"])


class Wrong:
    """A graph policy with something wrong about it."""

    name = "gnn"
    version = "wrong"

    def __init__(self, decision: Decision | None) -> None:
        self._decision = decision

    def decide(self, view: View) -> Decision:
        if self._decision is None:
            raise RuntimeError("broken")
        return self._decision

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over nothing."""


def test_soundness_is_asked_in_drawn_states() -> None:
    assert graph_faults(GraphPolicy.load(0), clock=lambda: 0.0) == []
    culls = graph_faults(Wrong(Decision(Cull("s99"), "", float("nan"))))
    assert any("not legal: there is no seed 's99'" in fault for fault in culls)
    assert "it gives a command with the probability nan" in culls
    assert graph_faults(Wrong(None)) == ["it raises RuntimeError: broken"]
    ticks = iter(range(10 * STATES))
    slow = graph_faults(GraphPolicy.load(0), clock=lambda: float(next(ticks)))
    assert slow == ["a decision takes 1000.0 ms, 12 are allowed"]
