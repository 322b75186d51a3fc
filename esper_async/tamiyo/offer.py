"""What is offered at a boundary, as arrays: every placement with what is known of it.

A policy that draws among placements leaves the whole offer behind, with the probability of each:
without those that were not chosen, a learner cannot say what another policy would have done. Facts
are recorded and not features, so that features of a later version can be had for all history.
"""

import base64
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from esper_async.karn.catalogue import Catalogue
from esper_async.leyline import LIMITS, ChoiceSet

if TYPE_CHECKING:  # the supervisor reads records, and has no torch
    from esper_async.tamiyo.view import Placement, View

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

PLACEMENT_WIDTH = 8
FACTS = 4
_FAST = 1


@dataclass(frozen=True, slots=True, eq=False)
class Offer:
    """P placements over S sites and B blueprints.

    Attributes:
        sites: their names (S); `depths` (S,).
        blueprints: their ids (B); `facts` (B, 4): grade, risk, experimental, replaces; NaN where
            the catalogue does not say.
        site_of: (P,), indices into the sites; `blueprint_of` likewise.
        parameters: (P,).
    """

    sites: tuple[str, ...]
    depths: Ints
    blueprints: tuple[str, ...]
    facts: Floats
    site_of: Ints
    blueprint_of: Ints
    parameters: Ints
    host_parameters: int

    @classmethod
    def of(cls, view: "View", catalogue: Catalogue) -> "Offer":
        """Return what a view offers, in its order."""
        placements = view.placements
        depths = {each.site: each.depth for each in placements}
        site_index = {name: place for place, name in enumerate(depths)}
        names = dict.fromkeys(each.blueprint for each in placements)
        blueprint_index = {name: place for place, name in enumerate(names)}
        facts = [
            [np.nan if fact is None else fact for fact in catalogue_facts(catalogue, name)]
            for name in names
        ]
        return cls(
            tuple(depths),
            np.array(list(depths.values()), dtype=np.int64),
            tuple(names),
            np.array(facts, dtype=np.float64).reshape(-1, FACTS),
            np.array([site_index[each.site] for each in placements], dtype=np.int64),
            np.array([blueprint_index[each.blueprint] for each in placements], dtype=np.int64),
            np.array([each.parameters for each in placements], dtype=np.int64),
            view.host_parameters,
        )

    @classmethod
    def from_message(cls, message: ChoiceSet) -> "Offer":
        """Return the offer of a record."""
        return cls(
            tuple(message.sites),
            np.array(message.depths, dtype=np.int64),
            tuple(message.blueprints),
            np.array(message.blueprint_facts, dtype=np.float64).reshape(-1, FACTS),
            np.array(message.site_of, dtype=np.int64),
            np.array(message.blueprint_of, dtype=np.int64),
            np.array(message.parameters, dtype=np.int64),
            message.host_parameters,
        )

    def __len__(self) -> int:
        return len(self.parameters)

    def features(self) -> Floats:
        """Return (P, 8).

        They are 1, size, share of the host's size, depth, grade, risk, experimental, replaces.
        """
        facts = np.where(np.isnan(self.facts), 0.5, self.facts)[self.blueprint_of]
        deepest = max(int(self.depths.max(initial=0)), 1)
        found = np.empty((len(self), PLACEMENT_WIDTH))
        found[:, 0] = 1.0
        found[:, 1] = np.log1p(self.parameters) / 10.0
        found[:, 2] = np.minimum(self.parameters / max(self.host_parameters, 1), 8.0) / 8.0
        found[:, 3] = self.depths[self.site_of] / deepest
        found[:, 4:] = facts / (6.0, 1.0, 1.0, 1.0)
        return found

    def to_message(self, probabilities: Floats, chosen: int | None, idle: float) -> ChoiceSet:
        """Return the record of a draw among the offer; `idle` is the probability of none of it."""
        return ChoiceSet(
            sites=self.sites,
            depths=self.depths.tolist(),
            blueprints=self.blueprints,
            blueprint_facts=self.facts.ravel().tolist(),
            site_of=self.site_of.tolist(),
            blueprint_of=self.blueprint_of.tolist(),
            parameters=self.parameters.tolist(),
            host_parameters=self.host_parameters,
            probabilities=probabilities.tolist(),
            idle_probability=idle,
            chosen=chosen,
        )


def pack_draw(
    offer: Offer, probabilities: Floats | Sequence[float], chosen: int | None, idle: float = 0.0
) -> str | None:
    """Return a draw as text for the journal; None for an offer that is too large to record.

    Args:
        offer: what could be drawn.
        probabilities: (P,), under the policy that drew.
        chosen: the place of what was drawn; None for nothing.
        idle: how likely nothing was.
    """
    if len(offer) > LIMITS.recorded_choices:  # a part of it would be worse than none
        return None
    message = offer.to_message(np.asarray(probabilities, dtype=np.float64), chosen, idle)
    return base64.b64encode(zlib.compress(message.SerializeToString(), _FAST)).decode()


def unpack_draw(text: str) -> ChoiceSet:
    """Return the message that `pack_draw` made.

    Raises:
        ValueError: the text is none of `pack_draw`'s.
    """
    try:
        return ChoiceSet.FromString(zlib.decompress(base64.b64decode(text, validate=True)))
    except (ValueError, zlib.error, DecodeError) as error:
        raise ValueError(f"the choices of a decision cannot be read: {error}") from error


def place_of(placement: "Placement", view: "View") -> int:
    """Return the place of a placement in what a view offers."""
    return next(place for place, each in enumerate(view.placements) if each is placement)


def catalogue_facts(catalogue: Catalogue, blueprint: str) -> tuple[float | None, ...]:
    """Return grade, risk, whether it is experimental and replaces; None of what is not known."""
    known = catalogue.find(blueprint)
    if known is None:
        return (None, None, None, None)
    replaces = None if known.output is None else float(known.output == "replacement")
    return (known.stage, known.risk, float(known.tier == "experimental"), replaces)
