"""Which blueprint may be planted at which site, as tables (S, B) of all pairs of the two.

A run's placements are listed once; at a boundary only the places of those on offer are new.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from esper_async.tamiyo.graph.features import PAIR_FEATURES, Floats
from esper_async.tamiyo.graph.structure import Ground
from esper_async.tamiyo.view import OfferedPlacements, Placement


class PairTable:
    """Every placement that there may be, on a ground.

    Attributes:
        ground: what the tables are laid out on.
        every: the placements.
        places: (P,), where each of them stands in the flattened tables.
        parameters: (S, B), 0 where there is no placement.
        log_parameters: (S, B), log(1 + parameters).
        by_place: the placements by their places.
    """

    def __init__(self, placements: Sequence[Placement], ground: Ground) -> None:
        self.ground = ground
        self.every = _every(placements)
        index = ground.pair_index
        places = [index[each.site, each.blueprint] for each in self.every]
        self.places = np.array(places, dtype=np.int64)
        self.parameters = np.zeros((ground.sizes.sites, ground.sizes.blueprints))
        self.parameters.flat[self.places] = [each.parameters for each in self.every]
        self.log_parameters = np.log1p(self.parameters)
        self.by_place = dict(zip(places, self.every, strict=True))

    def holds(self, placements: Sequence[Placement]) -> bool:
        """Whether placements are of those that were listed here."""
        if isinstance(placements, OfferedPlacements):
            return self.every is placements.every
        return self.every == tuple(placements)


class OfferedPairs(Mapping[int, Placement]):
    """The placements on offer, by their places in the flattened tables.

    Attributes:
        table: what they are some of.
        legal: (S, B), where they stand.
        counts: (B,), at how many sites a blueprint is offered.
        smallest, largest: (B,), its parameters there; infinite where it is offered nowhere.
    """

    def __init__(self, table: PairTable, placements: Sequence[Placement]) -> None:
        self.table = table
        self._chosen = placements.places if isinstance(placements, OfferedPlacements) else None
        places = table.places if self._chosen is None else table.places[self._chosen]
        self.legal = np.zeros(table.parameters.shape, dtype=np.bool_)
        self.legal.ravel()[places] = True
        self.counts = self.legal.sum(axis=0)
        self.smallest = np.where(self.legal, table.parameters, np.inf).min(axis=0)
        largest = np.where(self.legal, table.parameters, -np.inf).max(axis=0)
        self.largest = np.where(self.counts > 0, largest, np.inf)

    def are(self, placements: Sequence[Placement]) -> bool:
        """Whether placements of the same table are these."""
        if self._chosen is None or not isinstance(placements, OfferedPlacements):
            return self._chosen is None and not isinstance(placements, OfferedPlacements)
        return np.array_equal(self._chosen, placements.places)

    def features(self, remaining_parameters: int) -> Floats:
        """Return (S, B, 2), 0 where nothing is offered."""
        found = np.zeros((*self.legal.shape, len(PAIR_FEATURES)), dtype=np.float32)
        share = self.table.parameters / max(remaining_parameters, 1)
        np.copyto(found[..., 0], self.table.log_parameters, where=self.legal, casting="same_kind")
        np.copyto(found[..., 1], np.minimum(share, 1.0), where=self.legal, casting="same_kind")
        return found

    def __getitem__(self, place: int) -> Placement:
        if not self.legal.item(place):
            raise KeyError(place)
        return self.table.by_place[place]

    def __iter__(self) -> Iterator[int]:
        return iter(np.flatnonzero(self.legal).tolist())

    def __len__(self) -> int:
        return int(self.legal.sum())


def _every(placements: Sequence[Placement]) -> tuple[Placement, ...]:
    return placements.every if isinstance(placements, OfferedPlacements) else tuple(placements)
