"""What the policy gets to see: the executor's state as plain values."""

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from esper_async.kasmina.executor import Executor
from esper_async.kasmina.legal import LegalPair
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.seed_memory import SeedMemory, bytes_of_buffers
from esper_async.kasmina.sites import Site
from esper_async.kasmina.stage import ACTIVE, ON_TRIAL, Stage
from esper_async.tamiyo.view import (
    MachineView,
    OfferedPlacements,
    Placement,
    SeedView,
    SiteView,
    View,
)

MOST_MEASURED = 4_000_000
"""Gradients of a host's sites are looked at where they have no more elements than this together."""


class ViewMaker:
    """Makes a run's views; what stays the same from boundary to boundary is made once.

    Args:
        legal: the certified pairs, in the order in which placements are offered.
    """

    def __init__(self, legal: Sequence[LegalPair]) -> None:
        self._legal = list(legal)
        self._placements = tuple(
            Placement(pair.site.name, pair.site.depth, pair.blueprint, pair.blend, pair.parameters)
            for pair in self._legal
        )
        self._parameters = np.array([pair.parameters for pair in self._legal], dtype=np.int64)
        self._saved = np.array([pair.saved_bytes for pair in self._legal], dtype=np.int64)
        self._weights = np.array(
            [pair.parameters * _dtype(pair.site).itemsize for pair in self._legal], dtype=np.int64
        )
        self._names = list(dict.fromkeys(pair.site.name for pair in self._legal))
        places = {name: place for place, name in enumerate(self._names)}
        self._sites = np.array([places[pair.site.name] for pair in self._legal], dtype=np.int64)
        self._blueprints = tuple(sorted({pair.blueprint for pair in self._legal}))
        self._traced: tuple[SiteView, ...] = ()
        self._losses = LossLists()
        self._chosen: NDArray[np.bool_] | None = None
        self._offer = OfferedPlacements(self._placements, np.array([], dtype=np.int64))
        self._buffers: tuple[tuple[str, ...], int] | None = None
        self._own: dict[str, list[nn.Parameter]] = {}

    def view(
        self,
        executor: Executor,
        history: Sequence[dict[str, float]],
        *,
        batch_size: int,
        boundary: int,
        last_boundary: int | None,
        whole: bool = False,
        gradients: bool = False,
        machine: MachineView | None = None,
    ) -> View:
        """Return the view of a run at a boundary; `batch_size` is in samples.

        `whole` adds what only some read: sites, and all that was measured of seeds; `gradients`
        those of the host, too.
        """
        options = executor.options
        self._losses.read(history)
        active = executor.in_stage(*ACTIVE, Stage.FOSSILIZED)
        training = len(executor.in_stage(Stage.GERMINATED, Stage.TRAINING))
        resting = executor.resting_sites()
        fitting, room = self._fitting(executor, resting, batch_size)
        return View(
            boundary=boundary,
            last_boundary=last_boundary,
            validation_losses=list(self._losses.validation),
            training_losses=list(self._losses.training),
            seeds=[_seed_view(seed, boundary, whole=whole) for seed in active],
            placements=fitting,
            free_candidates=min(options.max_candidates - training, room),
            host_parameters=executor.host_parameters,
            remaining_parameters=executor.remaining_parameters,
            trial_boundaries=_trial_boundaries(options, executor.steps_per_boundary),
            max_seeds=options.max_seeds,
            max_candidates=options.max_candidates,
            machine=machine,
            gradient_rms=self._gradients(executor) if gradients else {},
            **(self._rest(executor, resting, boundary) if whole else {}),
        )

    def _fitting(
        self, executor: Executor, resting: set[str], batch_size: int
    ) -> tuple[Sequence[Placement], int]:
        """Return the placements there is memory for, and for how many of the largest there is."""
        if not executor.room_for_a_seed():
            return (), executor.options.max_candidates
        open_sites = np.array([name not in resting for name in self._names], dtype=np.bool_)
        plantable = self._parameters <= executor.remaining_parameters
        plantable &= open_sites[self._sites]
        if executor.quarantined:
            banned = executor.quarantined
            plantable &= np.array([p.blueprint not in banned for p in self._legal], dtype=np.bool_)
        if not plantable.any():
            return (), executor.options.max_candidates
        memory = SeedMemory(executor, batch_size, buffer_bytes=self._buffers_of(executor))
        left, most = memory.left(), executor.options.max_candidates
        needed = memory.needed_each(self._weights, self._saved)
        if most * int(needed.max()) <= left:  # whatever is planted fits
            return self._offered(plantable), most
        fitting = plantable & (needed <= left)
        largest = int(needed[fitting].max(initial=1))
        return self._offered(fitting), left // largest

    def _offered(self, chosen: NDArray[np.bool_]) -> OfferedPlacements:
        """Return the chosen placements; the same object where they are those of before."""
        if self._chosen is None or not np.array_equal(self._chosen, chosen):
            self._chosen = chosen
            self._offer = OfferedPlacements(self._placements, np.flatnonzero(chosen))
        return self._offer

    def _buffers_of(self, executor: Executor) -> int:
        """Return the bytes of the model's buffers; they are others where other seeds are in it."""
        grown = tuple(executor.branch.seed_order)
        if self._buffers is None or self._buffers[0] != grown:
            self._buffers = grown, bytes_of_buffers(executor)
        return self._buffers[1]

    def _gradients(self, executor: Executor) -> Mapping[str, float]:
        if not self._own:
            model, sites = executor.branch.model, executor.sites.values()
            self._own = {site.name: _own_parameters(model, site) for site in sites}
        return gradient_rms(self._own)

    def _rest(self, executor: Executor, resting: set[str], boundary: int) -> dict[str, Any]:
        """Return what a whole view tells beyond any other."""
        model, sites = executor.branch.model, list(executor.sites.values())
        if not self._traced:
            self._traced = tuple(_site_view(model, site) for site in sites)
        return {
            "sites": self._traced,
            "resting": frozenset(resting),
            "blueprints": self._blueprints,
            "ended": [
                _seed_view(seed, boundary, whole=True)
                for seed in executor.seeds.values()
                if seed.ended_boundary is not None and seed.ended_boundary >= boundary - 1
            ],
        }


class LossLists:
    """The losses of a history that grows, or is another one after a rollback."""

    def __init__(self) -> None:
        self.validation: list[float] = []
        self.training: list[float] = []
        self._newest: Mapping[str, float] | None = None

    def read(self, history: Sequence[Mapping[str, float]]) -> None:
        """Add what is new."""
        known = len(self.validation)
        if known and (len(history) < known or history[known - 1] is not self._newest):
            self.validation, self.training = [], []
            known = 0
        for entry in history[known:]:
            self.validation.append(entry["validation_loss"])
            if "training_loss" in entry:
                self.training.append(entry["training_loss"])
            self._newest = entry


def _seed_view(seed: Seed, boundary: int, *, whole: bool) -> SeedView:
    known = (seed.id, seed.site.name, seed.candidate.blueprint, seed.stage, seed.parameter_count)
    if not whole:
        return SeedView(*known)
    optimizer, norm = seed.optimizer, seed.gradients.last_norm
    blended = 1.0 if seed.stage is Stage.FOSSILIZED else 0.0
    return SeedView(
        *known,
        alpha=seed.alpha if seed.stage in ON_TRIAL else blended,
        age_boundaries=boundary - seed.born_boundary,
        stage_boundaries=seed.stage_boundaries,
        gradient_norm=float(norm) if seed.stage is Stage.TRAINING and norm is not None else None,
        learning_rate=None if optimizer is None else float(optimizer.param_groups[0]["lr"]),
        clean_contribution=seed.clean_contribution,
        dependence=seed.dependence,
        benefit_vs_twin=seed.benefit_vs_twin,
        windows=seed.windows,
        paused=seed.paused,
    )


def _site_view(model: nn.Module, site: Site) -> SiteView:
    interface = site.interface
    elements = int(np.prod(interface.shape))
    own = _own_parameters(model, site)
    count = sum(parameter.numel() for parameter in own)
    trained = sum(parameter.numel() for parameter in own if parameter.requires_grad)
    return SiteView(
        name=site.name,
        depth=site.depth,
        kind=interface.kind,
        channels=interface.channels,
        positions=elements // interface.channels,
        element_bytes=_dtype(site).itemsize,
        channels_last=interface.layout == "channels_last",
        layer=site.path,
        layer_parameters=count,
        layer_tensors=len(own),
        trainable=trained / count if count else 1.0,
    )


def gradient_rms(parameters: Mapping[str, Sequence[nn.Parameter]]) -> Mapping[str, float]:
    """Return the root mean square of the gradients that parameters had last, by their site.

    A site without gradients is left out, and so are all of them where they have too many elements
    to be looked at at every boundary.
    """
    every: list[Tensor] = []
    spans: list[tuple[str, int, int]] = []  # site, tensors, elements
    for site, trained in parameters.items():
        own = [gradient for each in trained if (gradient := each.grad) is not None]
        if own:
            spans.append((site, len(own), sum(map(Tensor.numel, own))))
            every += own
    if not every or sum(elements for _, _, elements in spans) > MOST_MEASURED:
        return {}
    norms = iter(torch.stack(_as_float(torch._foreach_norm(every))).tolist())
    return {
        site: (sum(norm**2 for norm in islice(norms, tensors)) / elements) ** 0.5
        for site, tensors, elements in spans
    }


def _as_float(norms: Sequence[Tensor]) -> list[Tensor]:
    return [norm if norm.dtype is torch.float32 else norm.float() for norm in norms]


def _own_parameters(model: nn.Module, site: Site) -> list[nn.Parameter]:
    """Return the parameters of a site's layer, without those of what has grown in it."""
    layer = model.get_submodule(site.path)
    return [
        parameter
        for name, parameter in layer.named_parameters()
        if not any(part.startswith("esper_") for part in name.split("."))
    ]


def _dtype(site: Site) -> torch.dtype:
    found: torch.dtype = getattr(torch, site.interface.dtype)
    return found


def _trial_boundaries(options: GrowthOptions, steps_per_boundary: int) -> int:
    dwell = -(-options.dwell_steps // steps_per_boundary)
    return dwell + options.ramp_boundaries + options.window_boundaries
