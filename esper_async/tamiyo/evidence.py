"""What stood behind a decision, packed for the journal: the graph, and every head's distribution.

The bytes are a `DecisionRecord` of the contracts with nothing but graph, heads and value; the
journal keeps them compressed, and the message for the bus is made from them.
"""

import base64
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from esper_async.leyline import DecisionRecord, EdgeSet, NodeSet, PolicyHead
from esper_async.tamiyo.graph.builder import GraphState
from esper_async.tamiyo.graph.features import PAIR_FEATURES, TABLES, NodeType
from esper_async.tamiyo.graph.structure import Structure
from esper_async.tamiyo.network.choosing import HeadChoice
from esper_async.tamiyo.view import SeedView

_FAST = 1
_NODE_FEATURES = NodeSet.FEATURES_FIELD_NUMBER
_EDGE_FEATURES = EdgeSet.FEATURES_FIELD_NUMBER
_LEGAL = PolicyHead.LEGAL_FIELD_NUMBER
_LOG_PROBABILITIES = PolicyHead.LOG_PROBABILITIES_FIELD_NUMBER


def pack(state: GraphState, heads: Sequence[HeadChoice], value: float) -> str:
    """Return the evidence of a decision as text."""
    message = DecisionRecord(value=value)
    for node_type, names in _names(state.structure, state.seeds).items():
        _add_nodes(message, node_type, names, state)
    _add_edges(message, state)
    for head in heads:
        entry = message.heads.add(name=head.name, chosen=head.chosen)
        entry.MergeFromString(_packed(_LEGAL, head.legal.tobytes()))
        with np.errstate(divide="ignore"):
            told = np.log(head.probabilities)
        entry.MergeFromString(_packed(_LOG_PROBABILITIES, _floats(told)))
    return base64.b64encode(zlib.compress(message.SerializeToString(), _FAST)).decode()


def unpack(evidence: str) -> DecisionRecord:
    """Return the message that `pack` made.

    Raises:
        ValueError: the text is none of `pack`'s.
    """
    try:
        return DecisionRecord.FromString(zlib.decompress(base64.b64decode(evidence, validate=True)))
    except (ValueError, zlib.error) as error:
        raise ValueError(f"the evidence of a decision cannot be read: {error}") from error


def _floats(values: "NDArray[np.floating[Any]]") -> bytes:
    return values.astype("<f4", order="C").tobytes()


def _packed(field: int, content: bytes) -> bytes:
    """Return a packed repeated field as it is on the wire: tag, length, content.

    Many numbers reach a message so in a tenth of the time that a list of them takes.
    """
    head, length = [field << 3 | 2], len(content)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*head, length)) + content


def _names(structure: Structure, seeds: Sequence[SeedView]) -> Mapping[NodeType, list[str]]:
    sites = [site.name for site in structure.sites]
    return {
        "run": ["run"],
        "layer": sites,
        "activation": sites,
        "parameter": sites,
        "seed": [seed.id for seed in seeds],
        "blueprint": list(structure.blueprints),
    }


def _add_nodes(
    message: DecisionRecord, node_type: NodeType, names: Sequence[str], state: GraphState
) -> None:
    width = len(TABLES[node_type].features)
    rows = state.features[node_type][: len(names)].numpy()
    nodes = message.graph.nodes.add(type=node_type, width=width, names=names)
    nodes.MergeFromString(_packed(_NODE_FEATURES, _floats(rows[:, :width])))
    nodes.missing.extend(np.flatnonzero(rows[:, width:].ravel()).tolist())


def _add_edges(message: DecisionRecord, state: GraphState) -> None:
    """Add a blueprint's legal sites with what is known of the pairs, and the seeds' places."""
    sites, blueprints = np.nonzero(state.pair_legal.numpy())
    edges = message.graph.edges.add(
        relation="may_be_planted", source_type="blueprint", target_type="layer",
        width=len(PAIR_FEATURES),
    )  # fmt: skip
    edges.sources.extend(blueprints.tolist())
    edges.targets.extend(sites.tolist())
    edges.MergeFromString(_packed(_EDGE_FEATURES, _floats(state.pairs.numpy()[sites, blueprints])))
    structure = state.structure
    placed = [index for index, seed in enumerate(state.seeds) if seed.site in structure.site_index]
    edges = message.graph.edges.add(relation="grows_at", source_type="seed", target_type="layer")
    edges.sources.extend(placed)
    edges.targets.extend(structure.site_index[state.seeds[index].site] for index in placed)
    edges = message.graph.edges.add(
        relation="is_made_from", source_type="seed", target_type="blueprint"
    )
    edges.sources.extend(range(len(state.seeds)))
    edges.targets.extend(structure.blueprint_index[seed.blueprint] for seed in state.seeds)
