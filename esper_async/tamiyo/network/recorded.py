"""A decision of the graph policy, read back from its record: what the network saw, what was drawn.

`evidence.pack` writes what is read here. Layers stand in the order of the trace, so that the names
of the nodes and the seeds' places tell every relation that the network sees.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from esper_async.leyline import DecisionRecord, EdgeSet, NodeSet
from esper_async.tamiyo.graph.features import NODE_TYPES, PAIR_FEATURES, TABLES, NodeType
from esper_async.tamiyo.graph.structure import (
    Planted,
    Sizes,
    Structure,
    ground_key,
    lay_ground,
    lay_out,
)
from esper_async.tamiyo.legality import GERMINATE
from esper_async.tamiyo.network.heads import TURNS
from esper_async.tamiyo.network.policy_network import GraphBatch
from esper_async.tamiyo.view import SiteView


class UnusableRecordError(ValueError):
    """A record does not hold what a learner of the graph policy needs; the message says what."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordedHead:
    """One head that was asked, and what it answered.

    Attributes:
        kind: its name; "tune" is the ramp of a seed that lives, "ramp" that of a candidate.
        at: where in the graph it was asked: (seed,) or (site, blueprint), as far as it hangs on it.
        legal: (K,), which answers there were.
        chosen: the one that was given.
        open_pairs: (S, B), what could still be drawn, of a head that draws a site.
        turns: (S,), how many candidates more than the least a site has had, of the same.
    """

    kind: str
    at: tuple[int, ...]
    legal: Tensor
    chosen: int
    open_pairs: Tensor | None = None
    turns: Tensor | None = None


@dataclass(frozen=True, slots=True, eq=False)
class RecordedDecision:
    """What the network saw, what it was asked, and how likely the action was then.

    Attributes:
        graph: a batch of one.
        heads: in the order in which they were asked.
        log_probability: of the whole action, as it was drawn.
    """

    graph: GraphBatch
    heads: tuple[RecordedHead, ...]
    log_probability: float


def recorded(record: DecisionRecord) -> RecordedDecision:
    """Read a decision back.

    Raises:
        UnusableRecordError: it was not taken by the graph policy, or with other features.
    """
    if not record.heads or not record.graph.nodes:
        raise UnusableRecordError("no graph policy took it: there are no heads, or no graph")
    nodes = {each.type: each for each in record.graph.nodes}
    lacking = [name for name in NODE_TYPES if name not in nodes]
    if lacking:
        raise UnusableRecordError(f"its graph has no nodes of type {', '.join(lacking)}")
    edges = {each.relation: each for each in record.graph.edges}
    sites, blueprints, seeds = (list(nodes[n].names) for n in ("layer", "blueprint", "seed"))
    homes, kinds = _targets(edges["grows_at"]), _targets(edges["is_made_from"])
    planted = tuple(
        # a seed at a place that is no site any more stands for itself
        (seed, sites[homes[i]] if i in homes else seed, blueprints[kinds[i]])
        for i, seed in enumerate(seeds)
    )
    structure = _laid_out(tuple(sites), tuple(blueprints), planted)
    sizes = structure.sizes
    pairs, pair_legal = _pairs(edges["may_be_planted"], sizes)
    graph = GraphBatch(
        sizes=sizes,
        features={name: _features(name, nodes[name], sizes) for name in NODE_TYPES},
        pairs=pairs.unsqueeze(0),
        relations=structure.relations.unsqueeze(0),
        present=structure.present.unsqueeze(0),
    )
    heads = _Questions(pair_legal).of(record)
    return RecordedDecision(graph, heads, _log_probability(record))


def stacked(graphs: Sequence[GraphBatch]) -> GraphBatch:
    """Return graphs of the same padded sizes as one batch."""
    return GraphBatch(
        sizes=graphs[0].sizes,
        features={
            name: torch.cat([graph.features[name] for graph in graphs]) for name in NODE_TYPES
        },
        pairs=torch.cat([graph.pairs for graph in graphs]),
        relations=torch.cat([graph.relations for graph in graphs]),
        present=torch.cat([graph.present for graph in graphs]),
    )


@lru_cache(maxsize=256)
def _laid_out(sites: tuple[str, ...], blueprints: tuple[str, ...], planted: Planted) -> Structure:
    """Lay a topology out; of its sites the names are known, which is all that relations take."""
    views = tuple(
        SiteView(name, place, "feature", 1, 1, 4, False, name, 0, 0, 1.0)
        for place, name in enumerate(sites)
    )
    ground = lay_ground(ground_key(views, blueprints, host_parameters=1, seeds=len(planted)))
    return lay_out(ground, planted)


def _features(node_type: NodeType, nodes: NodeSet, sizes: Sizes) -> Tensor:
    """Return (1, n, width): values, then the flags of what was not measured; padding is all 0."""
    width, count = len(TABLES[node_type].features), len(nodes.names)
    if nodes.width != width or len(nodes.features) != count * width:
        raise UnusableRecordError(
            f"its {node_type} nodes have {nodes.width} features, and there are {width} now"
        )
    rows = {
        "run": 1, "layer": sizes.sites, "activation": sizes.sites, "parameter": sizes.sites,
        "seed": sizes.seeds, "blueprint": sizes.blueprints,
    }[node_type]  # fmt: skip
    found = np.zeros((1, rows, 2 * width), dtype=np.float32)
    found[0, :count, :width] = np.array(nodes.features, dtype=np.float32).reshape(count, width)
    missing = np.zeros(count * width, dtype=np.float32)
    missing[list(nodes.missing)] = 1.0
    found[0, :count, width:] = missing.reshape(count, width)
    return torch.from_numpy(found)


def _pairs(edges: EdgeSet, sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Return (S, B, P), what is known of pairs, and (S, B), which of them could be planted."""
    width = len(PAIR_FEATURES)
    if edges.width != width:
        raise UnusableRecordError(f"its pairs have {edges.width} features, and there are {width}")
    sites, blueprints = list(edges.targets), list(edges.sources)
    pairs = torch.zeros(sizes.sites, sizes.blueprints, width)
    legal = torch.zeros(sizes.sites, sizes.blueprints, dtype=torch.bool)
    pairs[sites, blueprints] = torch.tensor(list(edges.features)).reshape(-1, width)
    legal[sites, blueprints] = True
    return pairs, legal


def _targets(edges: EdgeSet) -> dict[int, int]:
    return dict(zip(edges.sources, edges.targets, strict=True))


class _Questions:
    """Follows a decision from head to head: each answer says what is asked next, and where."""

    def __init__(self, pair_legal: Tensor) -> None:
        self._open = pair_legal
        self._counts = torch.zeros(len(pair_legal), dtype=torch.long)
        self._operation = self._seed = self._site = self._blueprint = self._drawn = 0

    def of(self, record: DecisionRecord) -> tuple[RecordedHead, ...]:
        """Return the heads of a record. Raises UnusableRecordError for one that there is not."""
        found = []
        for told in record.heads:
            head = self._asked(told.name, torch.tensor(list(told.legal)), told.chosen)
            self._answer(head)
            found.append(head)
        return tuple(found)

    def _asked(self, name: str, legal: Tensor, chosen: int) -> RecordedHead:
        if name == "site":
            least = self._counts[legal].min()
            turns = (self._counts - least).clamp(0, TURNS - 1)
            return RecordedHead("site", (), legal, chosen, self._open, turns)
        if name == "ramp" and self._operation != GERMINATE:
            name = "tune"
        at: dict[str, tuple[int, ...]] = {
            "operation": (),
            "seed": (self._operation,),
            "tune": (self._seed,),
            "candidates": (self._drawn - 1,),
            "blueprint": (self._site,),
            "blend": (self._site, self._blueprint),
            "ramp": (self._site, self._blueprint),
        }
        if name not in at:
            raise UnusableRecordError(f"there is no head {name!r}")
        return RecordedHead(name, at[name], legal, chosen)

    def _answer(self, head: RecordedHead) -> None:
        if head.kind == "operation":
            self._operation = head.chosen
        elif head.kind == "seed":
            self._seed = head.chosen
        elif head.kind == "site":
            self._site = head.chosen
        elif head.kind == "blueprint":
            self._blueprint = head.chosen
        elif head.kind == "ramp":
            self._open = self._open.clone()  # heads before hold what was open then
            self._open[self._site, self._blueprint] = False
            self._counts[self._site] += 1
            self._drawn += 1


def _log_probability(record: DecisionRecord) -> float:
    """Return the sum over heads, which what is no number cannot be."""
    found = sum(float(head.log_probabilities[head.chosen]) for head in record.heads)
    if not np.isfinite(found):
        raise UnusableRecordError("what was chosen had no probability")
    return found
