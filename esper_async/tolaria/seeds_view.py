"""What the policy gets to see: the executor's state as plain values."""

from collections.abc import Sequence

from esper_async.kasmina.executor import Executor
from esper_async.kasmina.legal import LegalPair
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed_memory import SeedMemory
from esper_async.kasmina.stage import ACTIVE, Stage
from esper_async.tamiyo.view import Placement, SeedView, View


def policy_view(
    executor: Executor,
    legal: Sequence[LegalPair],
    history: Sequence[dict[str, float]],
    *,
    batch_size: int,
    boundary: int,
    last_boundary: int | None,
) -> View:
    """Return the view of a run at a boundary; `batch_size` is in samples."""
    options = executor.options
    active = executor.in_stage(*ACTIVE, Stage.FOSSILIZED)
    training = len(executor.in_stage(Stage.GERMINATED, Stage.TRAINING))
    fitting, room = _fitting(executor, _plantable(executor, legal), batch_size)
    return View(
        boundary=boundary,
        last_boundary=last_boundary,
        validation_losses=[entry["validation_loss"] for entry in history],
        training_losses=[entry["training_loss"] for entry in history if "training_loss" in entry],
        seeds=[
            SeedView(
                seed.id, seed.site.name, seed.candidate.blueprint, seed.stage, seed.parameter_count
            )
            for seed in active
        ],
        placements=[
            Placement(pair.site.name, pair.site.depth, pair.blueprint, pair.blend, pair.parameters)
            for pair in fitting
        ],
        free_candidates=min(options.max_candidates - training, room),
        host_parameters=executor.host_parameters,
        remaining_parameters=executor.remaining_parameters,
        trial_boundaries=_trial_boundaries(options, executor.steps_per_boundary),
    )


def _plantable(executor: Executor, legal: Sequence[LegalPair]) -> list[LegalPair]:
    if not executor.room_for_a_seed():
        return []
    resting = executor.resting_sites()
    return [
        pair
        for pair in legal
        if pair.site.name not in resting
        and pair.blueprint not in executor.quarantined
        and pair.parameters <= executor.remaining_parameters
    ]


def _fitting(
    executor: Executor, pairs: Sequence[LegalPair], batch_size: int
) -> tuple[list[LegalPair], int]:
    """Return the pairs for which there is memory, and for how many of the largest there is."""
    if not pairs:
        return [], executor.options.max_candidates
    memory = SeedMemory(executor, batch_size)
    left = memory.left()
    needed = [(pair, memory.needed(pair)) for pair in pairs]
    fitting = [pair for pair, size in needed if size <= left]
    largest = max((size for _, size in needed if size <= left), default=1)
    return fitting, left // max(largest, 1)


def _trial_boundaries(options: GrowthOptions, steps_per_boundary: int) -> int:
    dwell = -(-options.dwell_steps // steps_per_boundary)
    return dwell + options.ramp_boundaries + options.window_boundaries
