"""The state of a run as a graph: documented features, cached structure, honest gaps."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from esper_async.kasmina.quantity import Quantity
from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.graph.builder import GraphBuilder
from esper_async.tamiyo.graph.features import NODE_TYPES, PAIR_FEATURES, TABLES, schema_digest
from esper_async.tamiyo.graph.relations import Relation
from esper_async.tamiyo.view import MachineView, OfferedPlacements
from tests.tamiyo.graph_views import drawn_views, seed, view


def value(state, node_type: str, row: int, name: str) -> float:  # type: ignore[no-untyped-def]
    return float(state.features[node_type][row, TABLES[node_type].column(name)])


def missing(state, node_type: str, row: int, name: str) -> bool:  # type: ignore[no-untyped-def]
    table = TABLES[node_type]
    return bool(state.features[node_type][row, len(table.features) + table.column(name)])


@pytest.mark.parametrize("node_type", NODE_TYPES)
def test_every_feature_is_named_with_its_version_unit_and_range(node_type: str) -> None:
    features = TABLES[node_type].features  # type: ignore[index]
    names = [feature.name for feature in features]
    assert len(set(names)) == len(names)
    for feature in features:
        assert feature.name.partition("/")[2].isdigit()
        assert feature.unit
        assert feature.meaning
        assert feature.low < feature.high


def test_normalised_features_of_any_state_lie_within_one() -> None:
    builder = GraphBuilder()
    for each in drawn_views(60):
        state = builder.state(each)
        for features in state.features.values():
            assert torch.isfinite(features).all()
            assert features.abs().max() <= 1.0


def test_what_was_not_measured_is_flagged_and_never_a_number_of_its_own() -> None:
    state = GraphBuilder().state(view(seeds=[seed("s1", Stage.TRAINING)]))
    for name in ("alpha/1", "gradient_norm/1", "contribution/1", "benefit/1"):
        assert missing(state, "seed", 0, name)
        assert value(state, "seed", 0, name) == 0.0
    assert missing(state, "run", 0, "memory_available/1")
    assert missing(state, "parameter", 0, "gradient_rms/1")


def test_a_loss_that_is_not_finite_reads_missing() -> None:
    broken = replace(view(), validation_losses=[1.0, math.nan])
    state = GraphBuilder().state(broken)
    assert missing(state, "run", 0, "validation_loss/1")
    assert missing(state, "run", 0, "gap/1")


def test_what_was_measured_is_told() -> None:
    benefit = Quantity(0.1, 0.05, 0.15, 64, "sample")
    told = replace(
        seed("s1", Stage.PROBATIONARY), alpha=1.0, benefit_vs_twin=benefit, gradient_norm=0.5
    )
    machine = MachineView(memory_available=0.25)
    gradients = {"first": 0.01}
    state = GraphBuilder().state(
        replace(view(seeds=[told], machine=machine), gradient_rms=gradients)
    )
    assert not missing(state, "seed", 0, "benefit/1")
    assert value(state, "seed", 0, "benefit/1") == pytest.approx(0.5)
    assert value(state, "seed", 0, "is_probationary/1") == 1.0
    assert value(state, "run", 0, "memory_available/1") == pytest.approx(0.25)
    assert value(state, "parameter", 0, "gradient_rms/1") == pytest.approx(
        math.log1p(10.0) / math.log1p(1e6), rel=1e-5
    )
    assert missing(state, "parameter", 1, "gradient_rms/1")


def test_a_topology_is_laid_out_once_until_it_changes() -> None:
    builder = GraphBuilder()
    for boundary in range(5, 15):
        builder.state(view(boundary))
    assert builder.layouts == 1
    builder.state(view(15, planting=False))
    assert builder.layouts == 1  # what may be planted is no topology
    builder.state(view(16, seeds=[seed("s1", Stage.GERMINATED)]))
    builder.state(view(17, seeds=[seed("s1", Stage.TRAINING)]))
    assert builder.layouts == 2
    builder.state(view(18, sites=4))
    assert builder.layouts == 3


def test_a_builder_that_has_seen_others_gives_the_graph_that_a_fresh_one_gives() -> None:
    used = GraphBuilder()
    for each in drawn_views(40, seed=3):
        one, other = used.state(each), GraphBuilder().state(each)
        assert torch.equal(one.pair_legal, other.pair_legal)
        assert torch.equal(one.pairs, other.pairs)
        assert torch.equal(one.seed_legal, other.seed_legal)
        assert torch.equal(one.operation_legal, other.operation_legal)
        for node_type, features in one.features.items():
            assert torch.equal(features, other.features[node_type])


def test_an_offer_of_a_list_gives_the_graph_that_its_placements_give() -> None:
    every, builder = tuple(view().placements), GraphBuilder()
    for places in ([0, 4, 5], [0, 4, 5], [1], [], list(range(9))):
        offer = OfferedPlacements(every, np.array(places, dtype=np.int64))
        one = builder.state(replace(view(), placements=offer))
        other = GraphBuilder().state(replace(view(), placements=list(offer)))
        assert torch.equal(one.pairs, other.pairs)
        assert torch.equal(one.pair_legal, other.pair_legal)
        assert torch.equal(one.features["blueprint"], other.features["blueprint"])
        assert dict(one.placements) == dict(other.placements)
        assert list(one.placements.values()) == list(offer)


def test_edges_are_those_of_the_topology() -> None:
    state = GraphBuilder().state(view(seeds=[seed("s1", Stage.TRAINING, where="second")]))
    sizes, table = state.structure.sizes, state.structure.relations
    layer, grown = sizes.offset("layer") + 1, sizes.offset("seed")
    assert table[grown, layer] == Relation.LAYER_SEED
    assert table[layer, grown] == Relation.SEED_LAYER
    assert table[layer, layer + 1] == Relation.NEXT_LAYER
    assert table[layer, sizes.offset("activation") + 1] == Relation.ACTIVATION_LAYER
    assert table[layer, sizes.offset("parameter") + 1] == Relation.PARAMETER_LAYER
    kind = sizes.offset("blueprint") + state.structure.blueprint_index["BP002"]
    assert table[grown, kind] == Relation.BLUEPRINT_SEED
    assert (table.diagonal()[state.structure.present] == Relation.SELF).all()


def test_pairs_tell_what_may_be_planted_and_how_large_it_is() -> None:
    each = view()
    state = GraphBuilder().state(each)
    assert int(state.pair_legal.sum()) == len(each.placements)
    first = state.structure.pair_index["first", "BP009"]
    assert state.placements[first].blueprint == "BP009"
    pair = state.pairs.reshape(-1, len(PAIR_FEATURES))[first].numpy()
    assert np.allclose(pair, [math.log1p(30), 30 / 800])


def test_another_feature_is_another_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    before = schema_digest()
    table = TABLES["seed"]
    changed = (replace(table.features[0], unit="furlongs"), *table.features[1:])
    monkeypatch.setattr(table, "features", changed)
    assert schema_digest() != before
