"""From a view to tensors: what changes at every boundary, in a structure that stays."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper_async.karn.catalogue import Catalogue
from esper_async.kasmina.quantity import Quantity
from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.graph.features import TABLES, Floats, NodeType, Scaling
from esper_async.tamiyo.graph.pairs import OfferedPairs, PairTable
from esper_async.tamiyo.graph.structure import (
    Ground,
    Structure,
    blueprints_of,
    ground_key,
    lay_ground,
    lay_out,
    planted_in,
    sites_of,
)
from esper_async.tamiyo.legality import OPERATIONS, legal_operations, seed_operations
from esper_async.tamiyo.offer import FACTS, catalogue_facts
from esper_async.tamiyo.view import Placement, SeedView, View

_STAGES = (
    Stage.GERMINATED,
    Stage.TRAINING,
    Stage.BLENDING,
    Stage.SHADOWING,
    Stage.PROBATIONARY,
    Stage.FOSSILIZED,
)
_STAGE_FLAGS = {stage: [float(stage is each) for each in _STAGES] for stage in Stage}
_MILLI, _MICRO = 1e3, 1e6
_GRADIENT = TABLES["parameter"].column("gradient_rms/1")
Row = list[float | None]


@dataclass(frozen=True, slots=True)
class GraphState:
    """A run at a boundary, ready for the network.

    Attributes:
        structure: the topology.
        features: by node type (nodes of it, width), padding all 0.
        pairs: (S, B, 2), what is known of a blueprint at a site.
        pair_legal: (S, B), where it may be planted now.
        operation_legal: (O,), which operations have something to act on.
        seed_legal: (O, M), on which seeds.
        placements: by place in the flattened pairs.
        seeds: in the order of their nodes.
        most_candidates: how many may be planted at once; 0 where none may.
    """

    structure: Structure
    features: dict[NodeType, Tensor]
    pairs: Tensor
    pair_legal: Tensor
    operation_legal: Tensor
    seed_legal: Tensor
    placements: Mapping[int, Placement]
    seeds: tuple[SeedView, ...]
    most_candidates: int


@dataclass(frozen=True, slots=True)
class _Settled:
    """What of a state stays from boundary to boundary until a stage or a placement changes."""

    structure: Structure
    offered: OfferedPairs
    key: tuple[object, ...]
    features: dict[NodeType, Tensor]
    pairs: Tensor
    pair_legal: Tensor
    operation_legal: Tensor
    seed_legal: Tensor


class _Pairs(NamedTuple):
    """What is known of pairs while the same ones are offered, and so many parameters remain."""

    offered: OfferedPairs
    remaining: int
    features: Tensor
    legal: Tensor


class GraphBuilder:
    """Makes the graph of each view; lays a topology out only when it has changed.

    What it keeps saves work and no more: the same view gives the same graph, whatever came before.

    Attributes:
        layouts: how often a topology was laid out.
    """

    def __init__(self, catalogue: Catalogue | None = None) -> None:
        self._catalogue = catalogue or Catalogue()
        self._ground: Ground | None = None
        self._structure: Structure | None = None
        self._offered: OfferedPairs | None = None
        self._settled: _Settled | None = None
        self._pairs: _Pairs | None = None
        self._seedless: tuple[OfferedPairs, Floats] | None = None
        self._scalings: dict[tuple[int, int], Scaling] = {}
        self._listed: tuple[Sequence[str], frozenset[str], tuple[str, ...]] | None = None
        self._facts: dict[str, tuple[float | None, ...]] = {}
        self._facts_of: tuple[tuple[str, ...], NDArray[np.float64]] | None = None
        self._masks = lru_cache(maxsize=512)(_masks)  # seeds come by the same stages again
        self.layouts = 0

    def state(self, view: View) -> GraphState:
        """Return a view as tensors, all float32 or bool."""
        structure = self._structure_for(view)
        offered = self._offered_of(view.placements, structure.ground)
        seeds = tuple(view.seeds)
        most = min(view.free_candidates, view.max_candidates) if view.placements else 0
        settled = self._settle(view, structure, offered, seeds, may_germinate=most > 0)
        return GraphState(
            structure=structure,
            features={**settled.features, **self._changing(view, structure, seeds)},
            pairs=settled.pairs,
            pair_legal=settled.pair_legal,
            operation_legal=settled.operation_legal,
            seed_legal=settled.seed_legal,
            placements=offered,
            seeds=seeds,
            most_candidates=max(most, 0),
        )

    def _settle(
        self,
        view: View,
        structure: Structure,
        offered: OfferedPairs,
        seeds: Sequence[SeedView],
        *,
        may_germinate: bool,
    ) -> _Settled:
        stages = tuple([seed.stage for seed in seeds])
        key = (stages, view.resting, view.remaining_parameters, may_germinate)
        settled = self._settled
        if (
            settled is not None
            and settled.structure is structure
            and settled.offered is offered
            and settled.key == key
        ):
            return settled
        features: dict[NodeType, Tensor] = {
            "layer": torch.from_numpy(_layers(view, structure, seeds)),
            "activation": structure.ground.activations,
            "blueprint": torch.from_numpy(self._blueprints(structure, seeds, offered)),
        }
        pairs, legal = self._pairs_of(offered, view.remaining_parameters)
        masks = self._masks(stages, structure.sizes.seeds, may_germinate=may_germinate)
        self._settled = _Settled(structure, offered, key, features, pairs, legal, *masks)
        return self._settled

    def _pairs_of(self, offered: OfferedPairs, remaining: int) -> tuple[Tensor, Tensor]:
        """Return what is known of pairs (S, B, 2), and which of them may be planted (S, B)."""
        known = self._pairs
        if known is None or known.offered is not offered or known.remaining != remaining:
            found = offered.features(remaining), offered.legal
            known = self._pairs = _Pairs(offered, remaining, *map(torch.from_numpy, found))
        return known.features, known.legal

    def _structure_for(self, view: View) -> Structure:
        key = ground_key(
            sites_of(view),
            self._blueprints_of(view),
            host_parameters=view.host_parameters,
            seeds=len(view.seeds),
        )
        if self._ground is None or self._ground.key != key:
            self._ground = lay_ground(key)
            self._structure = None
        planted = planted_in(view.seeds)
        if self._structure is None or self._structure.planted != planted:
            self._structure = lay_out(self._ground, planted)
            self.layouts += 1
        return self._structure

    def _blueprints_of(self, view: View) -> tuple[str, ...]:
        """Return `blueprints_of` a view; of the very same listed ones that is known."""
        listed = self._listed
        if listed is None or listed[0] is not view.blueprints:
            every = tuple(sorted(set(view.blueprints)))
            listed = self._listed = view.blueprints, frozenset(every), every
        if listed[1] and all(seed.blueprint in listed[1] for seed in view.seeds):
            return listed[2]
        return blueprints_of(view)

    def _offered_of(self, placements: Sequence[Placement], ground: Ground) -> OfferedPairs:
        """Return where placements stand; of the very same ones as before that is known."""
        before = self._offered
        if before is not None and before.table.ground is ground and before.table.holds(placements):
            if before.are(placements):
                return before
            table = before.table
        else:
            table = PairTable(placements, ground)
        self._offered = OfferedPairs(table, placements)
        return self._offered

    def _known(self, blueprint: str) -> tuple[float | None, ...]:
        if blueprint not in self._facts:
            self._facts[blueprint] = catalogue_facts(self._catalogue, blueprint)
        return self._facts[blueprint]

    def _all_known(self, names: tuple[str, ...]) -> NDArray[np.float64]:
        """Return (B, 4) of the catalogue's facts; of the very same blueprints they are kept."""
        if self._facts_of is None or self._facts_of[0] is not names:
            facts = np.array([self._known(name) for name in names], dtype=np.float64)
            self._facts_of = names, facts.reshape(-1, FACTS)
        return self._facts_of[1]

    def _changing(
        self, view: View, structure: Structure, seeds: Sequence[SeedView]
    ) -> dict[NodeType, Tensor]:
        """Return what is new at every boundary: the run, its seeds, the layers' last gradients.

        All of it is normalised at once: for so few numbers a call costs more than its work.
        """
        raw = _run(view, seeds)
        for seed in seeds:
            raw += _seed(seed, view, risk=self._known(seed.blueprint)[1])
        told = view.gradient_rms
        if told:
            raw += [_scaled(told.get(site.name), _MILLI) for site in structure.sites]
        gradients = len(structure.sites) if told else 0
        scaling = self._scaling_of(len(seeds), gradients)
        values, missing = scaling.apply(np.array(raw, dtype=np.float64))  # None becomes NaN
        start, end = len(TABLES["run"].features), len(values) - gradients
        parameters = structure.ground.parameters
        if told:
            parameters = _with_gradients(parameters, values[end:], missing[end:])
        return {
            "run": _padded("run", values[:start], missing[:start], 1),
            "parameter": parameters,
            "seed": _padded("seed", values[start:end], missing[start:end], structure.sizes.seeds),
        }

    def _scaling_of(self, seeds: int, gradients: int) -> Scaling:
        """Return the rules of a run's features, of so many seeds', and of so many gradients."""
        key = seeds, gradients
        if key not in self._scalings:
            table = TABLES["parameter"].scaling
            parts = [TABLES["run"].scaling, *[TABLES["seed"].scaling] * seeds]
            self._scalings[key] = Scaling.joined([*parts, table.only(_GRADIENT, gradients)])
        return self._scalings[key]

    def _blueprints(
        self, structure: Structure, seeds: Sequence[SeedView], offered: OfferedPairs
    ) -> Floats:
        """Return the blueprints (B, width), with the seeds that there are of them."""
        if self._seedless is None or self._seedless[0] is not offered:
            self._seedless = offered, self._without_seeds(structure, offered)
        found = self._seedless[1].copy()
        for seed in seeds:
            column = _BLUEPRINT_SEEDS[seed.stage is Stage.FOSSILIZED]
            _count(found, structure.blueprint_index[seed.blueprint], column)
        return found

    def _without_seeds(self, structure: Structure, offered: OfferedPairs) -> Floats:
        names = structure.blueprints
        count = len(names)
        rows = np.zeros((count, len(TABLES["blueprint"].features)))
        rows[:, :FACTS] = self._all_known(names)
        rows[:, 4], rows[:, 5] = offered.smallest[:count], offered.largest[:count]
        rows[:, 6] = offered.counts[:count] / max(len(structure.sites), 1)
        return TABLES["blueprint"].tensorise(rows, structure.sizes.blueprints)


def _masks(stages: tuple[Stage, ...], pad_to: int, *, may_germinate: bool) -> tuple[Tensor, Tensor]:
    """Return which operations are legal, and which on which seed (operations, pad_to)."""
    seed_legal = np.zeros((len(OPERATIONS), pad_to), dtype=np.bool_)
    if stages:
        seed_legal[:, : len(stages)] = np.array([seed_operations(each) for each in stages]).T
    operations = legal_operations(seed_legal, may_germinate=may_germinate)
    return torch.from_numpy(operations), torch.from_numpy(seed_legal)


class _Column(NamedTuple):
    """A feature that counts, and how much each one counts."""

    place: int
    step: float


def _column(node_type: NodeType, name: str) -> _Column:
    table = TABLES[node_type]
    place = table.column(name)
    return _Column(place, 1.0 / table.features[place].high)


_BLUEPRINT_SEEDS = _column("blueprint", "living/1"), _column("blueprint", "kept/1")
_LAYER_SEEDS = _column("layer", "seeds/1"), _column("layer", "kept/1")
"""Of seeds that live, and of those that were kept."""
_RESTING = _column("layer", "resting/1")


def _count(found: Floats, node: int, column: _Column) -> None:
    """Count one more at a node."""
    found[node, column.place] = min(found[node, column.place] + column.step, 1.0)


def _padded(
    node_type: NodeType, values: NDArray[np.float64], missing: NDArray[np.bool_], pad_to: int
) -> Tensor:
    """Return (pad_to, width) of the features of nodes in a row."""
    table = TABLES[node_type]
    rows = (-1, len(table.features))
    return torch.from_numpy(table.padded(values.reshape(rows), missing.reshape(rows), pad_to))


def _run(view: View, seeds: Sequence[SeedView]) -> Row:
    in_training = sum(seed.stage in (Stage.GERMINATED, Stage.TRAINING) for seed in seeds)
    kept = sum(seed.stage is Stage.FOSSILIZED for seed in seeds)
    validation, training = _last(view.validation_losses), _last(view.training_losses)
    last, machine = view.last_boundary, view.machine
    return [
        view.boundary,
        view.boundary,
        None if last is None else last - view.boundary,
        float(view.time_for_a_trial()),
        validation,
        training,
        _difference(validation, training),
        _share(training, validation),
        _difference(validation, _before(view.validation_losses, 1)),
        _difference(validation, _before(view.validation_losses, 5)),
        in_training,
        float(in_training > 0),
        float(view.on_trial()),
        kept / max(view.max_seeds, 1),
        view.free_candidates,
        float(bool(view.placements)),
        view.remaining_parameters / max(view.host_parameters, 1),
        view.host_parameters,
        None if machine is None else machine.memory_available,
        None if machine is None else machine.utilisation,
        None if machine is None else machine.temperature_celsius,
        None if machine is None else machine.decision_ms,
    ]


def _last(losses: Sequence[float]) -> float | None:
    return losses[-1] if losses else None


def _before(losses: Sequence[float], boundaries: int) -> float | None:
    return losses[-1 - boundaries] if len(losses) > boundaries else None


def _difference(one: float | None, other: float | None) -> float | None:
    return None if one is None or other is None else one - other


def _share(part: float | None, whole: float | None) -> float | None:
    """Return a share of losses; there is none of what is not above 0."""
    return part / whole if part is not None and whole is not None and whole > 0 <= part else None


def _layers(view: View, structure: Structure, seeds: Sequence[SeedView]) -> Floats:
    """Return the layers (S, width), with the seeds that there are at their sites."""
    index = structure.site_index
    found = structure.ground.layers.copy()
    for site in view.resting & index.keys():
        _count(found, index[site], _RESTING)
    for seed in seeds:
        if seed.site in index:
            _count(found, index[seed.site], _LAYER_SEEDS[seed.stage is Stage.FOSSILIZED])
    return found


def _with_gradients(
    parameters: Tensor, values: NDArray[np.float64], missing: NDArray[np.bool_]
) -> Tensor:
    """Return the layers' parameters (S, width) with their last gradients, each with its flag."""
    known: Floats = parameters.numpy().copy()
    known[: len(values), _GRADIENT] = values
    known[: len(values), _GRADIENT + len(TABLES["parameter"].features)] = missing
    return torch.from_numpy(known)


def _seed(seed: SeedView, view: View, *, risk: float | None) -> Row:
    clean, benefit, dependence = seed.clean_contribution, seed.benefit_vs_twin, seed.dependence
    return [
        *_STAGE_FLAGS[seed.stage],
        seed.alpha,
        seed.age_boundaries,
        seed.stage_boundaries,
        seed.parameters,
        seed.parameters / max(view.host_parameters, 1),
        _scaled(seed.gradient_norm, _MILLI),
        _scaled(seed.learning_rate, _MICRO),
        _mean(clean),
        _low(clean),
        _mean(dependence),
        _mean(benefit),
        _low(benefit),
        None if benefit is None else float(benefit.estimated),
        seed.windows,
        float(seed.paused),
        risk,
    ]


def _scaled(value: float | None, factor: float) -> float | None:
    return None if value is None else value * factor


def _mean(quantity: Quantity | None) -> float | None:
    return None if quantity is None else quantity.mean


def _low(quantity: Quantity | None) -> float | None:
    return None if quantity is None or not math.isfinite(quantity.low) else quantity.low
