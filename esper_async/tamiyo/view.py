"""What a policy sees of a run at a boundary: plain values, nothing it could change."""

from collections.abc import Sequence
from dataclasses import dataclass

from esper_async.kasmina.kernels.graft import BlendMode
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


@dataclass(frozen=True, slots=True)
class SeedView:
    """A seed as a policy sees it."""

    id: str
    site: str
    blueprint: str
    stage: Stage
    parameters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """The run at a boundary.

    `last_boundary` is None in a run whose end is not known. `placements` are legal now: certified,
    within the budget, at sites that do not rest; empty while no seed may be planted.
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
