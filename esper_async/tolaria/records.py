"""What the journal says about seeds: their state as JSON values."""

from collections.abc import Iterable
from typing import Any

import torch

from esper_async.kasmina.executor import Executor
from esper_async.kasmina.quantity import Quantity
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.sites import Site
from esper_async.kasmina.stage import Stage
from esper_async.tolaria.boundary_report import BoundaryReport, Transition
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.hardware import hardware_context
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.outcome import Tally
from esper_async.tolaria.task import Task


def seed_record(seed: Seed, boundary: int) -> dict[str, Any]:
    """Return a seed as the API shows it; what was not measured is None."""
    until = boundary if seed.ended_boundary is None else seed.ended_boundary
    return {
        "id": seed.id,
        "site": seed.site.name,
        "stage": seed.stage.name,
        "blueprint": seed.candidate.blueprint,
        "kernel": f"{seed.candidate.blueprint}@{seed.site.interface.key}",
        "alpha": seed.alpha,
        "age_epochs": until - seed.born_boundary,
        "parameters": seed.parameter_count,
        "tournament": seed.tournament,
        "depth": seed.site.depth,
        "gradient_norm": _gradient_norm(seed),
        "learning_rate": _learning_rate(seed),
        "clean_contribution": _json(seed.clean_contribution),
        "dependence": _json(seed.dependence),
        "benefit_vs_twin": _json(seed.benefit_vs_twin),
        "gates": [gate.to_json() for gate in seed.gates],
    }


def seed_records(executor: Executor | None, *, ended: bool) -> list[dict[str, Any]]:
    """Return the records of the seeds that are kept in mind, or of those that still change."""
    if executor is None:
        return []
    return [
        seed_record(seed, executor.boundary)
        for seed in executor.seeds.values()
        if ended or seed.stage is not Stage.DORMANT
    ]


def boundary_record(
    report: BoundaryReport,
    grower: Grower,
    tally: Tally,
    elapsed_s: float,
    *,
    host_parameters: int,
    overhead_ratio: float | None,
    is_epoch: bool,
    device: torch.device,
) -> dict[str, Any]:
    """Return what a boundary's record says, `elapsed_s` after the one before it."""
    executor = grower.executor
    added = 0 if executor is None else executor.added_parameters
    return {
        "metrics": report.metrics,
        "boundary_ms": report.duration_ms,
        "overhead_ratio": overhead_ratio,
        "samples_per_s": tally.samples / elapsed_s,
        "epoch_ms": 1e3 * elapsed_s if is_epoch and tally.whole else None,
        "shadow_cost_ratio": None if executor is None else executor.compute.shadow_cost_ratio,
        "parameters": host_parameters + added,
        "learning_rate": grower.optimizer.param_groups[0]["lr"],
        **growth_record(executor),
        "isolation_violations": report.isolation_violations,
        "hardware": hardware_context(device),
    }


def growth_record(executor: Executor | None) -> dict[str, Any]:
    """Return what a boundary's record says of growth: the seeds that still change, and totals."""
    totals = None
    if executor is not None:
        names = ("planted", "tournaments", "removed")
        totals = {name: getattr(executor, name) for name in names}
    return {"seeds": seed_records(executor, ended=False), "seed_totals": totals}


def start_record(
    task: Task, options: RunOptions, grower: Grower, boundaries: int
) -> dict[str, Any]:
    """Return what is planned as a run starts, and where it may grow."""
    return {
        "name": options.name,
        "policy": grower.policy.name,
        "epochs": options.epochs,
        "boundaries": boundaries,
        "seed": options.seed,
        "threads": torch.get_num_threads(),
        **task.description(),
        "sites": site_records(grower.sites),
        "compiled": grower.compiler.paths,
    }


def site_records(sites: Iterable[Site]) -> list[dict[str, Any]]:
    """Return where seeds may grow, in the order of the forward pass."""
    return [
        {"site": site.name, "kind": site.interface.kind, "shape": list(site.interface.shape)}
        for site in sites
    ]


def transition_record(transition: Transition) -> dict[str, Any]:
    """Return a stage change with its gate and numbers."""
    seed = transition.seed
    return {
        "seed": seed.id,
        "site": seed.site.name,
        "blueprint": seed.candidate.blueprint,
        "parameters": seed.parameter_count,
        "kernel_ms": seed.kernel_ms if transition.source is Stage.DORMANT else None,
        "from_stage": transition.source.name,
        "to_stage": transition.target.name,
        "gate": None if transition.gate is None else transition.gate.to_json(),
    }


def _gradient_norm(seed: Seed) -> float | None:
    """Return the norm of the last shadow gradient (); beyond TRAINING none is measured."""
    if seed.stage is not Stage.TRAINING or seed.gradients.last_norm is None:
        return None
    return float(seed.gradients.last_norm)


def _learning_rate(seed: Seed) -> float | None:
    return None if seed.optimizer is None else float(seed.optimizer.param_groups[0]["lr"])


def _json(quantity: Quantity | None) -> dict[str, Any] | None:
    return None if quantity is None else quantity.to_json()
