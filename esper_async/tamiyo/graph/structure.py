"""A topology laid out: which node stands where, how nodes are related, what never changes of them.

The ground of it, sites and blueprints, is made once; seeds are planted in it as they come and go.
Sizes are padded to steps, so that a run sees few shapes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from esper_async.tamiyo.graph.features import TABLES, Floats, NodeType
from esper_async.tamiyo.graph.relations import Relation
from esper_async.tamiyo.view import SeedView, SiteView, View

SITE_STEP, SEED_STEP, BLUEPRINT_STEP = 8, 12, 6
ORDER: tuple[NodeType, ...] = ("run", "layer", "seed", "blueprint", "activation", "parameter")
"""What a policy's heads read comes first, so that its last layer need work out no more."""
GroundKey = tuple[tuple[SiteView, ...], tuple[str, ...], int, int]
Planted = tuple[tuple[str, str, str], ...]
"""Of every seed its id, its site and its blueprint."""


@dataclass(frozen=True, slots=True)
class Sizes:
    """Padded numbers of nodes of a graph, whose types follow each other as `ORDER` says."""

    sites: int
    seeds: int
    blueprints: int

    @property
    def nodes(self) -> int:
        """The run's node, three a site, seeds and blueprints."""
        return 1 + 3 * self.sites + self.seeds + self.blueprints

    @property
    def read(self) -> int:
        """How many of the first nodes the heads of a policy read."""
        return self.offset("activation")

    def offset(self, node_type: NodeType) -> int:
        """Return the place of the first node of a type."""
        pointed_at = 1 + self.sites + self.seeds + self.blueprints
        return {
            "run": 0,
            "layer": 1,
            "seed": 1 + self.sites,
            "blueprint": 1 + self.sites + self.seeds,
            "activation": pointed_at,
            "parameter": pointed_at + self.sites,
        }[node_type]


@dataclass(frozen=True, slots=True)
class Ground:
    """What of a graph stays as long as its sites, its blueprints and its padded sizes do.

    `names` are those of its nodes by type, `pair_index` finds (site, blueprint); `activations` and
    `parameters` (S, width) are features that never change, but for gradients, which are missing
    here. `relations` (N, N) and `present` (N,) are those of a graph without seeds, `layers`
    (S, width) the features of layers without seeds, none of them at rest.
    """

    key: GroundKey
    sizes: Sizes
    sites: tuple[SiteView, ...]
    blueprints: tuple[str, ...]
    names: Mapping[NodeType, Sequence[str]]
    site_index: Mapping[str, int]
    blueprint_index: Mapping[str, int]
    pair_index: Mapping[tuple[str, str], int]
    relations: NDArray[np.uint8]
    present: NDArray[np.bool_]
    layers: Floats
    activations: Tensor
    parameters: Tensor


@dataclass(frozen=True, slots=True)
class Structure:
    """What of a graph stays as long as its topology does: the ground, and what is planted in it.

    `relations` (N, N) holds how node i sees node j; `present` (N,) which nodes are no padding.
    """

    ground: Ground
    planted: Planted
    relations: Tensor
    present: Tensor

    @property
    def sizes(self) -> Sizes:
        """How many nodes there are of each type, with the padding."""
        return self.ground.sizes

    @property
    def sites(self) -> tuple[SiteView, ...]:
        """The sites in the order of their nodes."""
        return self.ground.sites

    @property
    def blueprints(self) -> tuple[str, ...]:
        """The blueprints in the order of their nodes."""
        return self.ground.blueprints

    @property
    def site_index(self) -> Mapping[str, int]:
        """The place of a site among them."""
        return self.ground.site_index

    @property
    def blueprint_index(self) -> Mapping[str, int]:
        """The place of a blueprint among them."""
        return self.ground.blueprint_index

    @property
    def pair_index(self) -> Mapping[tuple[str, str], int]:
        """The place of (site, blueprint) among all pairs."""
        return self.ground.pair_index


def padded(count: int, step: int) -> int:
    """Return the least multiple of `step` that holds `count`, at least one step."""
    return max(-(-count // step), 1) * step


def sites_of(view: View) -> tuple[SiteView, ...]:
    """Return the sites of a view; those of a view that tells none, by its placements and seeds."""
    if view.sites:
        return tuple(view.sites)
    depths = {placement.site: placement.depth for placement in view.placements}
    names = dict.fromkeys([*depths, *(seed.site for seed in view.seeds)])
    return tuple(
        SiteView(name, depths.get(name, place), "feature", 1, 1, 4, False, name, 0, 0, 1.0)
        for place, name in enumerate(names)
    )


def ground_key(
    sites: tuple[SiteView, ...],
    blueprints: tuple[str, ...],
    *,
    host_parameters: int,
    seeds: int,
) -> GroundKey:
    """Return what a ground for so many seeds depends on."""
    return (sites, blueprints, host_parameters, padded(seeds, SEED_STEP))


def lay_ground(key: GroundKey) -> Ground:
    """Lay sites and blueprints out."""
    sites, blueprints, host_parameters, seeds = key
    sizes = Sizes(padded(len(sites), SITE_STEP), seeds, padded(len(blueprints), BLUEPRINT_STEP))
    site_index = {site.name: index for index, site in enumerate(sites)}
    blueprint_index = {name: index for index, name in enumerate(blueprints)}
    return Ground(
        key=key,
        sizes=sizes,
        sites=sites,
        blueprints=blueprints,
        names=_names(sites, blueprints),
        site_index=site_index,
        blueprint_index=blueprint_index,
        pair_index={
            (site, blueprint): s * sizes.blueprints + b
            for site, s in site_index.items()
            for blueprint, b in blueprint_index.items()
        },
        relations=_relations(sizes, len(sites), len(blueprints)),
        present=_present(sizes, len(sites), len(blueprints)),
        layers=TABLES["layer"].tensorise(
            [_layer(site, place, len(sites)) for place, site in enumerate(sites)], sizes.sites
        ),
        activations=torch.from_numpy(
            TABLES["activation"].tensorise([_activation(site) for site in sites], sizes.sites)
        ),
        parameters=torch.from_numpy(
            TABLES["parameter"].tensorise(
                [_parameters(site, host_parameters) for site in sites], sizes.sites
            )
        ),
    )


def planted_in(seeds: Sequence[SeedView]) -> Planted:
    """Return what of seeds a structure depends on."""
    return tuple([(seed.id, seed.site, seed.blueprint) for seed in seeds])


def lay_out(ground: Ground, planted: Planted) -> Structure:
    """Plant seeds in a ground that has room for them."""
    relations, present = ground.relations.copy(), ground.present.copy()
    start = ground.sizes.offset("seed")
    present[start : start + len(planted)] = True
    if planted:
        _relate_seeds(relations, ground, planted)
    return Structure(ground, planted, torch.from_numpy(relations), torch.from_numpy(present))


def blueprints_of(view: View) -> tuple[str, ...]:
    """Return the blueprints that may be planted somewhere, or live, in order of id."""
    names = set(view.blueprints or (placement.blueprint for placement in view.placements))
    return tuple(sorted(names | {seed.blueprint for seed in view.seeds}))


def _names(
    sites: Sequence[SiteView], blueprints: Sequence[str]
) -> Mapping[NodeType, Sequence[str]]:
    places = [site.name for site in sites]
    return {
        "run": ["run"],
        "layer": places,
        "activation": places,
        "parameter": places,
        "blueprint": blueprints,
    }


def _layer(site: SiteView, place: int, sites: int) -> list[float]:
    kinds = [float(site.kind == kind) for kind in ("spatial", "sequence", "feature")]
    return [place / max(sites - 1, 1), *kinds, 0.0, 0.0, 0.0]


def _activation(site: SiteView) -> list[float | None]:
    return [
        site.channels,
        site.positions,
        site.channels * site.positions,
        site.element_bytes,
        float(site.channels_last),
    ]


def _parameters(site: SiteView, host_parameters: int) -> list[float | None]:
    share = site.layer_parameters / max(host_parameters, 1)
    return [site.layer_parameters, share, site.layer_tensors, site.trainable, None]


def _present(sizes: Sizes, sites: int, blueprints: int) -> NDArray[np.bool_]:
    present = np.zeros(sizes.nodes, dtype=np.bool_)
    counts: dict[NodeType, int] = {
        "run": 1,
        "layer": sites,
        "activation": sites,
        "parameter": sites,
        "blueprint": blueprints,
    }
    for node_type, count in counts.items():
        start = sizes.offset(node_type)
        present[start : start + count] = True
    return present


def _relations(sizes: Sizes, sites: int, blueprints: int) -> NDArray[np.uint8]:
    """Return (N, N): how the node of a row sees the node of a column, without any seed."""
    table = np.zeros((sizes.nodes, sizes.nodes), dtype=np.uint8)
    table[:, 0] = table[0, :] = Relation.RUN
    everywhere = np.arange(sites)
    layers = sizes.offset("layer") + everywhere
    kinds = sizes.offset("blueprint") + np.arange(blueprints)
    table[np.ix_(kinds, layers)] = Relation.LAYER_BLUEPRINT
    table[np.ix_(layers, kinds)] = Relation.BLUEPRINT_LAYER
    table[layers[:-1], layers[1:]] = Relation.NEXT_LAYER
    table[layers[1:], layers[:-1]] = Relation.PREVIOUS_LAYER
    activations = sizes.offset("activation") + everywhere
    parameters = sizes.offset("parameter") + everywhere
    table[activations, layers] = Relation.LAYER_ACTIVATION
    table[layers, activations] = Relation.ACTIVATION_LAYER
    table[layers, parameters] = Relation.PARAMETER_LAYER
    table[parameters, layers] = Relation.LAYER_PARAMETER
    np.fill_diagonal(table, Relation.SELF)
    return table


def _relate_seeds(table: NDArray[np.uint8], ground: Ground, planted: Planted) -> None:
    """Write into (N, N) how seeds see each other and their surroundings, and are seen."""
    # one by one: for the few seeds that there are, arrays of indices cost more
    start = ground.sizes.offset("seed")
    layers, kinds = ground.sizes.offset("layer"), ground.sizes.offset("blueprint")
    end = start + len(planted)
    table[start:end, start:end] = Relation.SEED_SEED
    neighbours: dict[str, list[int]] = {}
    for node, (_, site, blueprint) in enumerate(planted, start):
        for other in neighbours.setdefault(site, []):
            table[node, other] = table[other, node] = Relation.SAME_SITE
        neighbours[site].append(node)
        table[node, node] = Relation.SELF
        kind = kinds + ground.blueprint_index[blueprint]
        table[node, kind], table[kind, node] = Relation.BLUEPRINT_SEED, Relation.SEED_BLUEPRINT
        home = ground.site_index.get(site)
        if home is not None:
            layer = layers + home
            table[node, layer], table[layer, node] = Relation.LAYER_SEED, Relation.SEED_LAYER
