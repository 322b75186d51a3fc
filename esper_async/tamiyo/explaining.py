"""Which features moved a decision: gradient times input, over every node of the graph.

Shrikumar et al. 2017, "Learning Important Features Through Propagating Activation Differences",
section 2.1, discuss the measure and its limits: it is exact where scores are linear.
"""

import numpy as np
import torch
from torch import Tensor

from esper_async.tamiyo.graph.builder import GraphState
from esper_async.tamiyo.graph.features import NODE_TYPES, TABLES, NodeType
from esper_async.tamiyo.legality import GERMINATE, OPERATIONS
from esper_async.tamiyo.network.choosing import Action
from esper_async.tamiyo.network.heads import PolicyOutput
from esper_async.tamiyo.network.policy_network import GraphBatch, PolicyNetwork

MOST_TOLD = 5


def strongest(
    network: PolicyNetwork, state: GraphState, action: Action, biases: Tensor
) -> list[dict[str, str | float]]:
    """Return the features with the largest effects on an action, by node and name.

    `biases` are those of attention in this state.
    """
    batch = GraphBatch.of([state])
    features = {name: batch.features[name].detach().clone() for name in NODE_TYPES}
    for tensor in features.values():
        tensor.requires_grad_()
    told = GraphBatch(batch.sizes, features, batch.pairs, batch.relations, batch.present)
    with torch.enable_grad():  # type: ignore[no-untyped-call]
        score = _score(network.forward(told, biases), state, action)
        gradients = torch.autograd.grad(score, list(features.values()), allow_unused=True)
    found: list[tuple[float, str, str]] = []
    for (name, tensor), gradient in zip(features.items(), gradients, strict=True):
        if gradient is not None:
            found += _effects(name, (tensor.detach() * gradient)[0], state)
    found.sort(key=lambda entry: -abs(entry[0]))
    return [
        {"node": node, "feature": feature, "effect": effect}
        for effect, node, feature in found[:MOST_TOLD]
        if effect != 0.0
    ]


def _score(output: PolicyOutput, state: GraphState, action: Action) -> Tensor:
    """Return the log-probability of the operation, and of the first thing it was done to."""
    operation = OPERATIONS.index(action.operation)
    legal = torch.where(state.operation_legal, output.operation[0], float("-inf"))
    score = torch.log_softmax(legal, dim=0)[operation]
    if operation == GERMINATE and action.candidates:
        first, structure = action.candidates[0], state.structure
        site = structure.site_index[first.site]
        blueprint = structure.blueprint_index[first.blueprint]
        pairs = torch.where(state.pair_legal, output.pair[0], float("-inf"))
        return score + torch.log_softmax(pairs.flatten(), 0)[site * pairs.shape[1] + blueprint]
    if action.seed is not None:
        targets = torch.where(state.seed_legal[operation], output.seed[0, operation], float("-inf"))
        return score + torch.log_softmax(targets, dim=0)[action.seed]
    return score


def _effects(name: NodeType, effects: Tensor, state: GraphState) -> list[tuple[float, str, str]]:
    """Return (effect, node, feature) of a type's largest, the largest first.

    Padding has none, and a flag's is its feature's.
    """
    ground = state.structure.ground
    names = [seed.id for seed in state.seeds] if name == "seed" else ground.names[name]
    features = TABLES[name].features
    width = len(features)
    together = (effects[:, :width] + effects[:, width:])[: len(names)].numpy()
    largest = np.argsort(-np.abs(together), axis=None, kind="stable")[:MOST_TOLD]
    return [
        (together.item(place), f"{name} {names[place // width]}", features[place % width].name)
        for place in largest.tolist()
    ]
