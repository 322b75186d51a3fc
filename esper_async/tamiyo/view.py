"""What a policy sees of a run at a boundary: plain values, nothing it could change."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import overload

import numpy as np
from numpy.typing import NDArray

from esper_async.kasmina.interface import InterfaceKind
from esper_async.kasmina.kernels.graft import BlendMode
from esper_async.kasmina.quantity import Quantity
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.stage import ON_TRIAL, Stage


@dataclass(frozen=True, slots=True)
class Placement:
    """A certified blueprint at a site where it may be planted now."""

    site: str
    depth: int
    blueprint: str
    blend: BlendMode
    parameters: int

    def candidate(self) -> Candidate:
        """Return the placement as a command's candidate."""
        return Candidate(site=self.site, blueprint=self.blueprint, blend=self.blend)


class OfferedPlacements(Sequence[Placement]):
    """Some of a run's placements: all of them, listed once, and the places of those on offer.

    Who knows the list already need only look at the places.

    Args:
        every: what there is; the same object at every boundary.
        places: (P,), which of it are offered, in ascending order.
    """

    def __init__(self, every: tuple[Placement, ...], places: NDArray[np.int64]) -> None:
        self.every = every
        self.places = places

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, index: int) -> Placement: ...
    @overload
    def __getitem__(self, index: slice) -> list[Placement]: ...
    def __getitem__(self, index: int | slice) -> Placement | list[Placement]:
        if isinstance(index, slice):
            return [self.every[place] for place in self.places[index].tolist()]
        return self.every[int(self.places[index])]

    def __iter__(self) -> Iterator[Placement]:
        return map(self.every.__getitem__, self.places.tolist())


@dataclass(frozen=True, slots=True)
class SiteView:
    """A place to grow, as the host's trace found it.

    `layer` names the module whose output it is; `layer_parameters`, `layer_tensors` and
    `trainable` (a share of the parameters) are that module's own, without what has grown in it.
    """

    name: str
    depth: int
    kind: InterfaceKind
    channels: int
    positions: int
    element_bytes: int
    channels_last: bool
    layer: str
    layer_parameters: int
    layer_tensors: int
    trainable: float


@dataclass(frozen=True, slots=True)
class SeedView:
    """A seed as a policy sees it; what was not measured is None, and never 0."""

    id: str
    site: str
    blueprint: str
    stage: Stage
    parameters: int
    alpha: float | None = None
    age_boundaries: int | None = None
    stage_boundaries: int | None = None
    gradient_norm: float | None = None
    learning_rate: float | None = None
    clean_contribution: Quantity | None = None
    dependence: Quantity | None = None
    benefit_vs_twin: Quantity | None = None
    windows: int = 0
    paused: bool = False


@dataclass(frozen=True, slots=True)
class MachineView:
    """The machine at a boundary; a deterministic run has none, so that no load can reach it.

    Shares are of the whole, 0 to 1; None was not measured.
    """

    memory_available: float | None = None
    utilisation: float | None = None
    temperature_celsius: float | None = None
    decision_ms: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The run at a boundary.

    `last_boundary` is None in a run whose end is not known. `placements` are legal now: certified,
    within the budget, at sites that do not rest; empty while no seed may be planted.

    What only some policies read has a default: `sites` in the order of the forward pass, those of
    them that rest, every blueprint that is certified somewhere, the root mean square of the host's
    last gradients by site, the seeds that ended since the last boundary, the machine, and whether
    the risk engine is in conservative mode.
    """

    boundary: int
    last_boundary: int | None
    validation_losses: Sequence[float]
    training_losses: Sequence[float]
    seeds: Sequence[SeedView]
    placements: Sequence[Placement]
    free_candidates: int
    host_parameters: int
    remaining_parameters: int
    trial_boundaries: int
    """Boundaries from germination to a verdict, at the least."""
    sites: Sequence[SiteView] = ()
    resting: frozenset[str] = frozenset()
    blueprints: Sequence[str] = ()
    gradient_rms: Mapping[str, float] = field(default_factory=dict)
    ended: Sequence[SeedView] = ()
    machine: MachineView | None = None
    max_seeds: int = 4
    max_candidates: int = 8
    conservative: bool = False

    def training(self) -> bool:
        """Whether candidates are in training now."""
        return any(seed.stage in (Stage.GERMINATED, Stage.TRAINING) for seed in self.seeds)

    def on_trial(self) -> bool:
        """Whether a seed is in the forward pass without being kept yet."""
        return any(seed.stage in ON_TRIAL for seed in self.seeds)

    def may_plant(self) -> bool:
        """Whether a seed planted now would not wait for another one and could be judged in time."""
        busy = self.training() or self.on_trial()
        return bool(self.placements) and not busy and self.time_for_a_trial()

    def time_for_a_trial(self) -> bool:
        """Whether a seed planted now could still be judged before the run ends."""
        if self.last_boundary is None:
            return True
        return self.boundary + self.trial_boundaries <= self.last_boundary
