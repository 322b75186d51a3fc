"""What stood behind a decision, packed for the journal: the graph, and every head's distribution.

The bytes are a `DecisionRecord` of the contracts with nothing but graph, heads and value; the
journal keeps them compressed, and the message for the bus is made from them.
"""

import base64
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from esper_async.leyline import DecisionGraph, DecisionRecord, EdgeSet, NodeSet, PolicyHead
from esper_async.tamiyo.graph.builder import GraphState
from esper_async.tamiyo.graph.features import NODE_TYPES, PAIR_FEATURES, TABLES, NodeType
from esper_async.tamiyo.graph.structure import Ground
from esper_async.tamiyo.network.choosing import HeadChoice

_FAST = 1
_GRAPH, _HEADS = DecisionRecord.GRAPH_FIELD_NUMBER, DecisionRecord.HEADS_FIELD_NUMBER
_NODES, _EDGES = DecisionGraph.NODES_FIELD_NUMBER, DecisionGraph.EDGES_FIELD_NUMBER
_NODE_FEATURES, _NODE_MISSING = NodeSet.FEATURES_FIELD_NUMBER, NodeSet.MISSING_FIELD_NUMBER
_EDGE_SOURCES, _EDGE_TARGETS = EdgeSet.SOURCES_FIELD_NUMBER, EdgeSet.TARGETS_FIELD_NUMBER
_EDGE_FEATURES = EdgeSet.FEATURES_FIELD_NUMBER
_LEGAL = PolicyHead.LEGAL_FIELD_NUMBER
_LOG_PROBABILITIES = PolicyHead.LOG_PROBABILITIES_FIELD_NUMBER


class Packer:
    """Packs one decision of a run after the other; what they have in common is packed once.

    The bytes are written as they are on the wire: a message filled number by number takes several
    times as long.
    """

    def __init__(self) -> None:
        self._ground: Ground | None = None
        self._begun: dict[NodeType, bytes] = {}

    def pack(self, state: GraphState, heads: Sequence[HeadChoice], value: float) -> str:
        """Return the evidence of a decision as text."""
        ground = state.structure.ground
        if self._ground is not ground:
            self._ground = ground
            self._begun = {
                node_type: _begin(node_type, names) for node_type, names in ground.names.items()
            }
        seeds = _begin("seed", [seed.id for seed in state.seeds])
        counts = {name: len(names) for name, names in ground.names.items()}
        counts["seed"] = len(state.seeds)
        graph = [
            _packed(_NODES, self._begun.get(name, seeds) + _nodes(name, counts[name], state))
            for name in NODE_TYPES
        ]
        graph += [_packed(_EDGES, edges) for edges in _edges(state)]
        with np.errstate(divide="ignore"):
            told = [_packed(_HEADS, _head(head)) for head in heads]
        record = (
            DecisionRecord(value=value).SerializeToString(),
            _packed(_GRAPH, b"".join(graph)),
            *told,
        )
        return base64.b64encode(zlib.compress(b"".join(record), _FAST)).decode()


def unpack(evidence: str) -> DecisionRecord:
    """Return the message that a `Packer` made.

    Raises:
        ValueError: the text is none of a `Packer`'s.
    """
    try:
        return DecisionRecord.FromString(zlib.decompress(base64.b64decode(evidence, validate=True)))
    except (ValueError, zlib.error, DecodeError) as error:
        raise ValueError(f"the evidence of a decision cannot be read: {error}") from error


def _floats(values: "NDArray[np.floating[Any]]") -> bytes:
    return values.astype("<f4", copy=False).tobytes()


def _packed(field: int, content: bytes) -> bytes:
    """Return a field that has a length as it is on the wire: tag, length, content."""
    head, length = [field << 3 | 2], len(content)
    while length > 0x7F:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes((*head, length)) + content


def varints(values: NDArray[np.int64]) -> bytes:
    """Return numbers of up to 32 bits as a packed field holds them: seven a byte, the low first."""
    if not values.size or values.max() < 0x80:
        return values.astype(np.uint8).tobytes()
    groups = values[:, None] >> np.arange(0, 35, 7)  # (n, 5), what is left from each byte on
    used = groups > 0
    used[:, 0] = True
    goes_on = np.where(groups > 0x7F, 0x80, 0)
    return (groups & 0x7F | goes_on)[used].astype(np.uint8).tobytes()


def _begin(node_type: NodeType, names: Sequence[str]) -> bytes:
    """Return what of a type's nodes is known before their features."""
    width = len(TABLES[node_type].features)
    return NodeSet(type=node_type, width=width, names=names).SerializeToString()


def _nodes(node_type: NodeType, count: int, state: GraphState) -> bytes:
    """Return the features of so many nodes, and which of them were not measured."""
    width = len(TABLES[node_type].features)
    rows = state.features[node_type].numpy()
    found = _packed(_NODE_FEATURES, _floats(rows[:count, :width]))
    missing = rows[:count, width:].ravel().nonzero()[0]
    return found + _packed(_NODE_MISSING, varints(missing)) if missing.size else found


def _head(head: HeadChoice) -> bytes:
    return (
        PolicyHead(name=head.name, chosen=head.chosen).SerializeToString()
        + _packed(_LEGAL, head.legal.tobytes())
        + _packed(_LOG_PROBABILITIES, _floats(np.log(head.probabilities)))
    )


_PLANTABLE = EdgeSet(
    relation="may_be_planted", source_type="blueprint", target_type="layer",
    width=len(PAIR_FEATURES),
).SerializeToString()  # fmt: skip


def _edges(state: GraphState) -> Sequence[bytes]:
    """Return a blueprint's legal sites with what is known of the pairs, and the seeds' places."""
    sites, blueprints = state.pair_legal.numpy().nonzero()
    structure = state.structure
    placed = [index for index, seed in enumerate(state.seeds) if seed.site in structure.site_index]
    return (
        _PLANTABLE
        + _packed(_EDGE_SOURCES, varints(blueprints))
        + _packed(_EDGE_TARGETS, varints(sites))
        + _packed(_EDGE_FEATURES, _floats(state.pairs.numpy()[sites, blueprints])),
        EdgeSet(
            relation="grows_at", source_type="seed", target_type="layer",
            sources=placed,
            targets=[structure.site_index[state.seeds[index].site] for index in placed],
        ).SerializeToString(),
        EdgeSet(
            relation="is_made_from", source_type="seed", target_type="blueprint",
            sources=range(len(state.seeds)),
            targets=[structure.blueprint_index[seed.blueprint] for seed in state.seeds],
        ).SerializeToString(),
    )  # fmt: skip
