"""Does every head of the policy learn, and does it answer the same each time?"""

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from esper_async.study.bench.benchmark import Bar, Benchmark, Effort, Mutant, Row, judged, replaced
from esper_async.tamiyo.graph.builder import GraphBuilder, GraphState
from esper_async.tamiyo.imitation.states import StateDraw
from esper_async.tamiyo.network import GraphBatch, PolicyNetwork, PolicyOutput
from esper_async.tamiyo.network.heads import PolicyHeads
from esper_async.tamiyo.network.transformer import Block

_GRAPHS = {Effort.SHORT: 6, Effort.FULL: 64}
UNSOUND = "{}: heads whose gradients are not finite, or zero"
DIFFERING = "evaluations of the same graph that differ"
_TIMES = 5
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def measure(effort: Effort) -> list[Row]:
    """Send each head's scores back alone, in two precisions; then evaluate again and again."""
    torch.manual_seed(0)
    draw = StateDraw(5)
    states = [
        GraphBuilder().state(draw.view(sites=(1, 16), situation="training"))
        for _ in range(_GRAPHS[effort])
    ]
    rows = [
        judged(
            UNSOUND.format(name),
            sum(_unsound(state, dtype) for state in states),
            "heads",
            Bar("at most", 0),
            note=f"of {len(fields(PolicyOutput))} heads on {len(states)} graphs",
        )
        for name, dtype in _DTYPES.items()
    ]
    differing = sum(_differs(state) for state in states)
    note = f"of {len(states)} graphs, {_TIMES} times each"
    return [*rows, judged(DIFFERING, differing, "graphs", Bar("at most", 0), note=note)]


def _unsound(state: GraphState, dtype: torch.dtype) -> int:
    network = PolicyNetwork().to(dtype).train()
    output = network(GraphBatch.of([state]))
    count = 0
    for head in fields(output):
        network.zero_grad(set_to_none=True)
        scores: Tensor = getattr(output, head.name)
        if not scores.requires_grad:
            count += 1
            continue
        scores.square().mean().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        found = [p.grad for p in network.parameters() if p.grad is not None]
        finite = all(bool(torch.isfinite(gradient).all()) for gradient in found)
        reached = network.trunk.relation_bias.grad
        count += not (finite and reached is not None and bool(reached.abs().max() > 0))
    return count


def _differs(state: GraphState) -> bool:
    network = PolicyNetwork().eval()
    with torch.inference_mode():
        told = [network(GraphBatch.of([state])) for _ in range(_TIMES)]
    return any(
        not torch.equal(getattr(told[0], head.name), getattr(other, head.name))
        for other in told[1:]
        for head in fields(PolicyOutput)
    )


_whole_forward = PolicyHeads.forward


def _cut_off(self: PolicyHeads, *nodes: Any) -> PolicyOutput:
    """Give the value head nodes that lead nowhere."""
    output = _whole_forward(self, *nodes)
    told: dict[str, Any] = {each.name: getattr(output, each.name) for each in fields(output)}
    return PolicyOutput(**{**told, "value": told["value"].detach()})


def _overflows(self: PolicyHeads, *nodes: Any) -> PolicyOutput:
    """Let the risk head's scores run over."""
    output = _whole_forward(self, *nodes)
    told: dict[str, Any] = {each.name: getattr(output, each.name) for each in fields(output)}
    return PolicyOutput(**{**told, "risk": told["risk"] * 1e30})


def _dropped_whatever_the_mode(block: Block, nodes: Tensor) -> Tensor:
    return functional.dropout(nodes, block.dropout.p)


BENCHMARK = Benchmark(
    name="policy-heads",
    question="does every head of the policy learn, and answer the same each time?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "a head that leads nowhere",
            "the value's gradient ends at the head",
            lambda: replaced("esper_async.tamiyo.network.heads.PolicyHeads.forward", _cut_off),
            fails=(UNSOUND.format("*"),),
        ),
        Mutant(
            "scores that run over",
            "the risk head is scaled until its square is infinite",
            lambda: replaced("esper_async.tamiyo.network.heads.PolicyHeads.forward", _overflows),
            fails=(UNSOUND.format("*"),),
        ),
        Mutant(
            "dropout in evaluation",
            "nodes are dropped whatever the mode",
            lambda: replaced(
                "esper_async.tamiyo.network.transformer.Block._dropped", _dropped_whatever_the_mode
            ),
            fails=(DIFFERING,),
        ),
    ),
)
