"""What is known of a blueprint at a site when it is planted: eight numbers, with a version.

The `bandit` policy decides by them, decision records carry them, and what was learned from records
of one version is refused by a policy of another.
"""

from typing import Any

import numpy as np

from esper_async.karn.catalogue import Catalogue
from esper_async.tamiyo.command import Command, Germinate
from esper_async.tamiyo.graph.structure import catalogue_facts
from esper_async.tamiyo.view import Placement, View

PLACEMENT_VERSION = "placement-1"
PLACEMENT_WIDTH = 8


def deepest_of(view: View) -> int:
    """Return the depth of the deepest site where something may be planted; 0 where nothing may."""
    return max((each.depth for each in view.placements), default=0)


def placement_features(
    placement: Placement, view: View, catalogue: Catalogue, *, deepest: int
) -> list[float]:
    """Return (8,): 1, size, size of the host's, depth, grade, risk, experimental, replaces.

    `deepest` is that of the view: it is the same for all of its placements.
    """
    stage, risk, experimental, replaces = (
        0.5 if fact is None else fact for fact in catalogue_facts(catalogue, placement.blueprint)
    )
    return [
        1.0,
        float(np.log1p(placement.parameters)) / 10.0,
        min(placement.parameters / max(view.host_parameters, 1), 8.0) / 8.0,
        placement.depth / max(deepest, 1),
        stage / 6.0,
        risk,
        experimental,
        replaces,
    ]


def planted_features(command: Command, view: View, catalogue: Catalogue) -> dict[str, Any] | None:
    """Return the features of a command's candidates, in their order, as JSON values.

    None for a command that plants nothing, or something that the view did not offer.
    """
    if not isinstance(command, Germinate):
        return None
    offered = {(each.site, each.blueprint): each for each in view.placements}
    placements = [offered.get((each.site, each.blueprint)) for each in command.candidates]
    deepest = deepest_of(view)
    found = [
        placement_features(each, view, catalogue, deepest=deepest)
        for each in placements
        if each is not None
    ]
    if len(found) != len(command.candidates):
        return None
    return {"version": PLACEMENT_VERSION, "values": found}
