"""The graph policy learns from its own runs, from what they brought, and from nothing else."""

import copy
import random
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from esper_async.kasmina.stage import Stage
from esper_async.leyline import DecisionRecord
from esper_async.simic.episodes import Episode, episodes_from
from esper_async.simic.graph_learner import IMPALA, PPO, GraphLearner, Method
from esper_async.simic.trajectory import Trajectory, join
from esper_async.tamiyo.evidence import unpack
from esper_async.tamiyo.legality import GERMINATE
from esper_async.tamiyo.network import PolicyNetwork
from esper_async.tamiyo.network.recorded import RecordedDecision, recorded
from esper_async.tamiyo.policies.graph import GraphPolicy
from tests.tamiyo.graph_views import seed, view

RUNS, STEPS = 12, 6
METHODS = {
    "ppo": dict(PPO.to_json(), passes=3, learning_rate=3e-3, discount=0.5),
    "impala": dict(IMPALA.to_json(), passes=1, learning_rate=3e-3, discount=0.5),
}
both = pytest.mark.parametrize("name", METHODS)


def method(name: str, **changes: object) -> Method:
    return Method(**{**METHODS[name], **changes})  # type: ignore[arg-type]


def network() -> PolicyNetwork:
    """One that plants and does other things about as often, so that there is something to learn."""
    torch.manual_seed(3)
    found = PolicyNetwork().eval()
    with torch.no_grad():
        found.heads.run.bias[:12] = 0.0
    return found


def records(run: int) -> list[DecisionRecord]:
    policy = GraphPolicy(run, network(), version="t")
    found = []
    for step in range(STEPS):
        seeds = [seed("s1", Stage.TRAINING)] if step % 2 else []
        evidence = policy.decide(view(boundary=step + 5, seeds=seeds)).evidence
        assert evidence is not None
        record = unpack(evidence)
        record.policy, record.run_id, record.boundary = "gnn", f"run{run}", step
        record.decision_id = record.command.command_id = f"run{run}/{step}"
        found.append(record)
    return found


def plants(decision: RecordedDecision) -> bool:
    return any(head.kind == "site" for head in decision.heads)


@pytest.fixture(scope="module")
def runs() -> list[tuple[RecordedDecision, ...]]:
    return [tuple(recorded(each) for each in records(run)) for run in range(RUNS)]


def episodes(
    runs: list[tuple[RecordedDecision, ...]], reward: Callable[[RecordedDecision], float]
) -> list[Episode]:
    return [
        Episode(f"run{place}", decisions, torch.tensor([reward(each) for each in decisions]), None)
        for place, decisions in enumerate(runs)
    ]


def likely(of: PolicyNetwork, runs: list[tuple[RecordedDecision, ...]]) -> float:
    """Return how likely it is to plant, on average over the states where that is legal."""
    found = []
    for decision in (each for run in runs for each in run):
        legal = decision.heads[0].legal
        if bool(legal[GERMINATE]):
            with torch.no_grad():
                scores = of(decision.graph).operation[0]
            found.append(float(torch.softmax(scores.masked_fill(~legal, -1e9), 0)[GERMINATE]))
    return sum(found) / len(found)


@both
def test_what_is_rewarded_becomes_likelier_and_what_is_punished_less(
    name: str, runs: list[tuple[RecordedDecision, ...]]
):
    before = likely(network(), runs)
    moved = {}
    for sign in (1.0, -1.0):
        told = episodes(runs, lambda each, sign=sign: sign if plants(each) else 0.0)
        learner = GraphLearner(network(), told, method(name))
        learner.learn()
        moved[sign] = likely(learner.finish(), runs) - before
    assert moved[1.0] > 0.03
    assert moved[-1.0] < -0.03


@both
def test_learning_from_the_same_runs_gives_the_same_weights_after_an_interruption_too(
    name: str, runs: list[tuple[RecordedDecision, ...]]
):
    told = episodes(runs, lambda each: float(plants(each)))
    straight = GraphLearner(network(), told, method(name, passes=3))
    straight.learn()
    kept: list[dict[str, object]] = []
    killed = GraphLearner(network(), told, method(name, passes=3))
    with pytest.raises(KeyboardInterrupt):
        killed.learn(after_pass=lambda _: keep_once(kept, killed))
    resumed = GraphLearner(network(), told, method(name, passes=3))
    resumed.load_state_dict(copy.deepcopy(kept[0]))
    resumed.learn()
    assert resumed.updates == straight.updates
    for one, other in zip(straight.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(one, other)


def keep_once(kept: list[dict[str, object]], learner: GraphLearner) -> None:
    kept.append(copy.deepcopy(learner.state_dict()))
    raise KeyboardInterrupt


def test_an_adapter_learns_and_leaves_the_network_beneath(
    runs: list[tuple[RecordedDecision, ...]],
):
    base = network()
    before = {name: each.clone() for name, each in base.state_dict().items()}
    told = episodes(runs, lambda each: float(plants(each)))
    learner = GraphLearner(base, told, method("ppo", rank=4, learning_rate=1e-2))
    learner.learn()
    weights = {
        name.replace("parametrizations.", "").replace(".original", ""): each
        for name, each in base.state_dict().items()
        if not name.endswith((".a", ".b"))
    }
    assert all(torch.equal(before[name], weights[name]) for name in before)
    assert likely(learner.finish(), runs) > likely(network(), runs)
    assert set(base.state_dict()) == set(before)


@both
def test_a_loss_that_is_no_number_stops_it_before_it_does_harm(
    name: str, runs: list[tuple[RecordedDecision, ...]]
):
    learner = GraphLearner(network(), episodes(runs, lambda _: float("nan")), method(name))
    with pytest.raises(FloatingPointError, match="update 1"):
        learner.learn()
    same: list[tuple[Tensor, Tensor]] = list(
        zip(learner.network.parameters(), network().parameters(), strict=True)
    )
    assert all(torch.equal(one, other) for one, other in same)


def test_what_was_kept_of_something_else_is_refused(runs: list[tuple[RecordedDecision, ...]]):
    told = episodes(runs, lambda _: 0.0)
    state = GraphLearner(network(), told, method("ppo")).state_dict()
    with pytest.raises(ValueError, match="another method"):
        GraphLearner(network(), told, method("impala")).load_state_dict(state)
    with pytest.raises(ValueError, match="other runs"):
        GraphLearner(network(), told[:-1], method("ppo")).load_state_dict(state)


def test_nothing_to_learn_from_changes_nothing():
    for name in METHODS:
        learner = GraphLearner(network(), [], method(name))
        learner.learn()
        assert learner.updates == 0


# -- episodes ----------------------------------------------------------------------------------


def trajectory(
    run: int = 1, *, gain: float | None = None, without: int | None = None
) -> Trajectory:
    told = [each for each in records(run) if each.boundary != without]
    random.Random(0).shuffle(told)
    return join(f"run{run}", told, [], terminal_gain=gain)


def test_a_run_that_ended_is_an_episode_with_its_result_at_the_end():
    (episode,) = episodes_from([trajectory(gain=0.1)]).found
    assert len(episode) == STEPS
    assert episode.cut_off_in is None
    assert episode.rewards[:-1].tolist() == [0.0] * (STEPS - 1)
    assert episode.rewards[-1] == pytest.approx(2.0)


def test_a_run_that_was_cut_off_ends_in_its_last_state():
    (episode,) = episodes_from([trajectory()]).found
    assert len(episode) == STEPS - 1
    last = recorded(records(1)[-1])
    assert episode.cut_off_in is not None
    assert torch.equal(episode.cut_off_in.graph.features["run"], last.graph.features["run"])


def test_the_value_of_the_state_it_was_cut_off_in_is_not_lost(
    runs: list[tuple[RecordedDecision, ...]],
):
    ended = Episode("r", runs[0], torch.zeros(STEPS), None)
    cut_off = Episode("r", runs[0], torch.zeros(STEPS), runs[1][0])
    of = network()
    with torch.no_grad():
        of.heads.run.bias += 1.0  # the value among them
    first = {
        name: next(
            iter(GraphLearner(copy.deepcopy(of), [each], method("ppo"))._ppo(random.Random(0)))
        )
        for name, each in (("ended", ended), ("cut off", cut_off))
    }
    assert float(first["ended"].value) != pytest.approx(float(first["cut off"].value), rel=1e-3)


def test_runs_that_teach_nothing_are_counted_by_why():
    other = records(2)
    for each in other:
        each.policy = "random"
    told = episodes_from(
        [trajectory(without=3), join("run2", other, []), join("run3", records(3)[:1], [])]
    )
    assert told.found == ()
    assert dict(told.skipped) == {
        "some of its decisions have not arrived": 1,
        "decided by random": 1,
        "cut off before its second decision": 1,
    }
