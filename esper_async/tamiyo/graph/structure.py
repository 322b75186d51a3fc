"""A topology laid out: which node stands where, how nodes are related, what never changes of them.

It is made once and kept until sites, seeds or blueprints change. Sizes are padded to steps, so
that a run sees few shapes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from esper_async.karn.catalogue import Catalogue
from esper_async.tamiyo.graph.features import TABLES, NodeType
from esper_async.tamiyo.graph.relations import Relation
from esper_async.tamiyo.view import SeedView, SiteView, View

SITE_STEP, SEED_STEP, BLUEPRINT_STEP = 8, 8, 16
TopologyKey = tuple[tuple[SiteView, ...], tuple[tuple[str, str, str], ...], tuple[str, ...], int]


@dataclass(frozen=True, slots=True)
class Sizes:
    """Padded numbers of nodes of a graph."""

    sites: int
    seeds: int
    blueprints: int

    @property
    def nodes(self) -> int:
        """The run's node, three a site, seeds and blueprints."""
        return 1 + 3 * self.sites + self.seeds + self.blueprints

    def offset(self, node_type: NodeType) -> int:
        """Return the place of the first node of a type."""
        return {
            "run": 0,
            "layer": 1,
            "activation": 1 + self.sites,
            "parameter": 1 + 2 * self.sites,
            "seed": 1 + 3 * self.sites,
            "blueprint": 1 + 3 * self.sites + self.seeds,
        }[node_type]


@dataclass(frozen=True, slots=True)
class Structure:
    """What of a graph stays as long as its topology does.

    `relations` (N, N) holds how node i sees node j; `present` (N,) which nodes are no padding;
    `activations` and `parameters` (S, width) are features that never change, but for gradients,
    which are missing here; `pair_index` finds (site, blueprint).
    """

    key: TopologyKey
    sizes: Sizes
    sites: tuple[SiteView, ...]
    blueprints: tuple[str, ...]
    site_index: Mapping[str, int]
    blueprint_index: Mapping[str, int]
    pair_index: Mapping[tuple[str, str], int]
    relations: Tensor
    present: Tensor
    activations: Tensor
    parameters: Tensor


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


def topology_key(
    sites: tuple[SiteView, ...],
    seeds: Sequence[SeedView],
    blueprints: tuple[str, ...],
    *,
    host_parameters: int,
) -> TopologyKey:
    """Return what a structure depends on."""
    planted = tuple((seed.id, seed.site, seed.blueprint) for seed in seeds)
    return (sites, planted, blueprints, host_parameters)


def lay_out(
    sites: tuple[SiteView, ...],
    seeds: Sequence[SeedView],
    blueprints: tuple[str, ...],
    *,
    host_parameters: int,
) -> Structure:
    """Lay a topology out."""
    sizes = Sizes(
        padded(len(sites), SITE_STEP),
        padded(len(seeds), SEED_STEP),
        padded(len(blueprints), BLUEPRINT_STEP),
    )
    site_index = {site.name: index for index, site in enumerate(sites)}
    blueprint_index = {name: index for index, name in enumerate(blueprints)}
    return Structure(
        key=topology_key(sites, seeds, blueprints, host_parameters=host_parameters),
        sizes=sizes,
        sites=sites,
        blueprints=blueprints,
        site_index=site_index,
        blueprint_index=blueprint_index,
        pair_index={
            (site, blueprint): s * sizes.blueprints + b
            for site, s in site_index.items()
            for blueprint, b in blueprint_index.items()
        },
        relations=_relations(sizes, sites, seeds, site_index, blueprint_index),
        present=_present(sizes, len(sites), len(seeds), len(blueprints)),
        activations=torch.from_numpy(
            TABLES["activation"].tensorise([_activation(site) for site in sites], sizes.sites)
        ),
        parameters=torch.from_numpy(
            TABLES["parameter"].tensorise(
                [_parameters(site, host_parameters) for site in sites], sizes.sites
            )
        ),
    )


def blueprints_of(view: View) -> tuple[str, ...]:
    """Return the blueprints that may be planted somewhere, or live, in order of id."""
    names = set(view.blueprints or (placement.blueprint for placement in view.placements))
    return tuple(sorted(names | {seed.blueprint for seed in view.seeds}))


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


def _present(sizes: Sizes, sites: int, seeds: int, blueprints: int) -> Tensor:
    present = torch.zeros(sizes.nodes, dtype=torch.bool)
    counts: dict[NodeType, int] = {
        "run": 1,
        "layer": sites,
        "activation": sites,
        "parameter": sites,
        "seed": seeds,
        "blueprint": blueprints,
    }
    for node_type, count in counts.items():
        start = sizes.offset(node_type)
        present[start : start + count] = True
    return present


def _relations(
    sizes: Sizes,
    sites: Sequence[SiteView],
    seeds: Sequence[SeedView],
    site_index: Mapping[str, int],
    blueprint_index: Mapping[str, int],
) -> Tensor:
    """Return (N, N): how the node of a row sees the node of a column."""
    table = np.zeros((sizes.nodes, sizes.nodes), dtype=np.int64)
    table[:, 0] = table[0, :] = Relation.RUN
    layer, seed_at = sizes.offset("layer"), sizes.offset("seed")
    blueprint_at = sizes.offset("blueprint")
    everywhere = np.arange(len(sites))
    layers = layer + everywhere
    kinds = np.arange(len(blueprint_index)) + blueprint_at
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
    _relate_seeds(table, seeds, layer, seed_at, blueprint_at, site_index, blueprint_index)
    np.fill_diagonal(table, Relation.SELF)
    return torch.from_numpy(table)


def _relate_seeds(
    table: "np.ndarray[tuple[int, int], np.dtype[np.int64]]",
    seeds: Sequence[SeedView],
    layer: int,
    seed_at: int,
    blueprint_at: int,
    site_index: Mapping[str, int],
    blueprint_index: Mapping[str, int],
) -> None:
    for index, seed in enumerate(seeds):
        node = seed_at + index
        for other, beside in enumerate(seeds):
            same = seed.site == beside.site
            table[node, seed_at + other] = Relation.SAME_SITE if same else Relation.SEED_SEED
        if seed.site in site_index:
            home = layer + site_index[seed.site]
            table[node, home], table[home, node] = Relation.LAYER_SEED, Relation.SEED_LAYER
        kind = blueprint_at + blueprint_index[seed.blueprint]
        table[node, kind], table[kind, node] = Relation.BLUEPRINT_SEED, Relation.SEED_BLUEPRINT


def catalogue_facts(catalogue: Catalogue, blueprint: str) -> tuple[float | None, ...]:
    """Return grade, risk, whether it is experimental and replaces; None of what is not known."""
    known = {record.id: record for record in catalogue.records}.get(blueprint)
    if known is None:
        return (None, None, None, None)
    replaces = None if known.output is None else float(known.output == "replacement")
    return (known.stage, known.risk, float(known.tier == "experimental"), replaces)
