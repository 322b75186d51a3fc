"""What does an update of the graph policy from 32 experiences cost? One thread's own time.

Decisions of a policy that plants often, on drawn states with 14 to 16 sites and 42 blueprints; each
update gets others of them. PPO's advantages are made once a pass and are not in it; IMPALA's are.
"""

import statistics
import time
from collections.abc import Sequence
from itertools import pairwise

import torch

from esper_async.simic.episodes import Episode
from esper_async.simic.graph_learner import IMPALA, PPO, GraphLearner, Method
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    wants,
)
from esper_async.study.bench.slowing import burning_cpu
from esper_async.tamiyo.evidence import unpack
from esper_async.tamiyo.imitation.states import StateDraw
from esper_async.tamiyo.network import PolicyNetwork
from esper_async.tamiyo.network.recorded import RecordedDecision, recorded
from esper_async.tamiyo.policies.graph import GraphPolicy

MOST_MS = 250.0
_STEPS = 32
_UPDATES = {Effort.SHORT: 5, Effort.FULL: 60}
_METHODS = {"PPO": PPO, "IMPALA": IMPALA}


def measure(effort: Effort) -> list[Row]:
    """Time the updates of one pass for each method."""
    figures = {name: f"{name}: an update from {_STEPS} experiences, median" for name in _METHODS}
    asked = [name for name in _METHODS if wants(figures[name])]
    episodes = _episodes(_UPDATES[effort] + 1)
    return [_row(figures[name], _METHODS[name], episodes) for name in asked]


def _row(figure: str, method: Method, episodes: Sequence[Episode]) -> Row:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times_ms = _times_ms(GraphLearner(PolicyNetwork(), episodes, method))
    finally:
        torch.set_num_threads(threads)
    return judged(
        figure, statistics.median(times_ms), "ms", Bar("at most", MOST_MS),
        note=f"{len(times_ms)} updates, slowest {max(times_ms):.0f} ms, thread CPU time",
    )  # fmt: skip


def _times_ms(learner: GraphLearner) -> list[float]:
    """Return what each update took but the first, which finds everything cold."""
    times = [time.thread_time()]
    for _ in learner.updates_of_a_pass():
        times.append(time.thread_time())
    return [1e3 * (after - before) for before, after in pairwise(times[1:])]


def _episodes(count: int) -> list[Episode]:
    """Return runs of 32 decisions each; what they brought does not matter here."""
    torch.manual_seed(0)
    policy = GraphPolicy(0, PolicyNetwork(), version="bench")
    draw = StateDraw(0)
    rewards = torch.linspace(-1.0, 1.0, _STEPS)
    return [
        Episode(f"run{run}", tuple(_decision(policy, draw) for _ in range(_STEPS)), rewards, None)
        for run in range(count)
    ]


def _decision(policy: GraphPolicy, draw: StateDraw) -> RecordedDecision:
    evidence = policy.decide(draw.view(sites=(14, 16))).evidence
    assert evidence is not None
    return recorded(unpack(evidence))


BENCHMARK = Benchmark(
    name="learning-step",
    question="what does an update of the graph policy cost?",
    measure=measure,
    mutants=(
        Mutant(
            "an update costs 200 ms more",
            "as it would if every head were asked by itself",
            lambda: burning_cpu("esper_async.simic.graph_learner.ask", 0.2),
            fails=("*: an update from *",),
        ),
    ),
)
