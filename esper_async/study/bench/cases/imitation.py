"""Does the shipped graph policy start where the heuristic stands?

Held-out states are drawn as those it was taught on, with other seeds. The full form also trains
MNIST-1D with either, and compares the final losses run by run.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from esper_async.study.bench.all_runs import run_all
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
    wants,
)
from esper_async.study.statistics import paired_difference
from esper_async.tamiyo.graph.builder import GraphState
from esper_async.tamiyo.imitation.states import StateDraw
from esper_async.tamiyo.imitation.teach import agreement
from esper_async.tamiyo.network import PolicyNetwork, PolicyOutput
from esper_async.tamiyo.network.policy_file import load_policy
from esper_async.tamiyo.policies.graph import SHIPPED, GraphPolicy
from esper_async.tamiyo.policy_header import PolicyHeader
from esper_async.tasks.mnist1d import make_task
from esper_async.tolaria.grow import grow

HELD_OUT_SEED = 104_729
AGREES = "held-out states on which it does as the heuristic"
APART = "first candidates: total variation from the heuristic's draw"
FINAL = "final validation loss, less the heuristic's"
LEAST_AGREEMENT, MOST_APART, MOST_WORSE = 0.95, 0.2, 0.02
_STATES = {Effort.SHORT: 150, Effort.FULL: 2_000}
_SEEDS = range(10)
_EPOCHS, _RATE = 60, 1e-2


@dataclass(frozen=True, slots=True)
class Plan:
    """One run of the comparison."""

    policy: str
    seed: int


def measure(effort: Effort) -> list[Row]:
    """Compare decisions on held-out states; in the full form final results, too."""
    rows: list[Row] = []
    if wants(AGREES, APART):
        network, header = load_policy(SHIPPED)
        draw = StateDraw(HELD_OUT_SEED)
        views = [draw.view(sites=(1, 24)) for _ in range(_STATES[effort])]
        found = agreement(network, views, seed=HELD_OUT_SEED)
        note = f"{found.states} states where it acts; {header.version}"
        rows += [
            judged(AGREES, found.same, "of states", Bar("at least", LEAST_AGREEMENT), note=note),
            judged(APART, found.distance, "0 to 1", Bar("at most", MOST_APART), note=note),
        ]
    if effort is Effort.FULL:
        rows.append(_final())
    return rows


def _final() -> Row:
    plans = [Plan(policy, seed) for policy in ("gnn", "heuristic") for seed in _SEEDS]
    ran = run_all(plans, run, Effort.FULL)
    ours = [ran[Plan("gnn", seed)] for seed in _SEEDS]
    theirs = [ran[Plan("heuristic", seed)] for seed in _SEEDS]
    found = paired_difference(ours, theirs)
    return judged(
        FINAL,
        found.value,
        "nats",
        Bar("at most", MOST_WORSE),
        note=f"95 % [{found.low:+.4f}, {found.high:+.4f}] over {found.count} paired runs",
    )


def run(plan: Plan) -> float:
    """Train once; return the final loss on the decision split."""
    result = grow(
        make_task(seed=plan.seed, learning_rate=_RATE, schedule="cosine"),
        epochs=_EPOCHS,
        policy=plan.policy,
        seed=plan.seed,
        progress=False,
        threads=1,
    )
    return float(result.history[-1]["validation_loss"])


_whole_load = load_policy


def _untaught(path: Path) -> tuple[PolicyNetwork, PolicyHeader]:
    """Return a network with the weights that torch begins with, and none of the heuristic's."""
    torch.manual_seed(0)
    network = PolicyNetwork().eval()
    for parameter in network.heads.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return network, _whole_load(path)[1]


_whole_scores = GraphPolicy.scores


def _blind_to_sizes(self: GraphPolicy, state: GraphState) -> PolicyOutput:
    before = state.pairs.clone()
    state.pairs[..., 0] = 0.0
    try:
        return _whole_scores(self, state)
    finally:
        state.pairs.copy_(before)


BENCHMARK = Benchmark(
    name="imitation",
    question="does the shipped graph policy start where the heuristic stands?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "was never taught",
            "its weights are those that a network begins with",
            partial(replaced, f"{__name__}.load_policy", _untaught),
            fails=(AGREES, APART),
        ),
        Mutant(
            "does not see how large a kernel is",
            "the sizes of placements read 0",
            partial(replaced, "esper_async.tamiyo.policies.graph.GraphPolicy.scores",
                    _blind_to_sizes),
            fails=(APART,),
        ),
    ),
)  # fmt: skip
