"""From a candidate to a seed: G0, and the kernel's construction."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch.optim import Optimizer

from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.kernels import KernelRefusedError, SettingRefusedError, build_kernel
from esper_async.kasmina.kernels.graft import BlendMode, Graft, fitting_blend
from esper_async.kasmina.seed import Candidate, Seed, seed_id_of, seed_stream
from esper_async.kasmina.seed_optimizer import sibling_optimizer
from esper_async.kasmina.sites import Site


class CommandRefusedError(ValueError):
    """A command cannot be carried out; nothing was changed, and the message says why."""


def check_candidates(
    candidates: Sequence[Candidate],
    *,
    limit: int,
    sites: Sequence[str],
    resting: set[str],
    quarantined: set[str],
) -> None:
    """Raise `CommandRefusedError` unless so many candidates may be planted at their sites."""
    if not 1 <= len(candidates) <= limit:
        raise CommandRefusedError(
            f"{len(candidates)} candidates proposed; between 1 and {limit} can be planted now"
        )
    for candidate in candidates:
        if candidate.site not in sites:
            raise CommandRefusedError(f"no site {candidate.site!r}; known: {', '.join(sites)}")
        if candidate.site in resting:
            raise CommandRefusedError(f"site {candidate.site!r} is under embargo")
        if candidate.blueprint in quarantined:
            raise CommandRefusedError(
                f"{candidate.blueprint} is quarantined in this run: a seed of it touched its host "
                f"while it trained in shadow"
            )


def check_budget(seed: Seed, remaining: int) -> None:
    """Raise `CommandRefusedError` unless a seed is within what remains of the budget."""
    if seed.parameter_count > remaining:
        raise CommandRefusedError(
            f"{seed.candidate.blueprint} at {seed.candidate.site} has {seed.parameter_count} "
            f"parameters; the budget has room for {remaining}"
        )


def sanity(seed: Seed, *, budget: int, boundary: int) -> GateResult:
    """G0, of a seed that passed it: its kernel fits the site, and the budget of parameters."""
    numbers = {"parameters": float(seed.parameter_count), "budget": float(budget)}
    reason = f"{seed.candidate.blueprint} fits {seed.site.interface.key}"
    return GateResult("G0", True, reason, numbers, boundary)


def check_legal(candidates: Sequence[Candidate], legal: Collection[tuple[str, str]]) -> None:
    """Raise `CommandRefusedError` unless each candidate is one of the legal (site, blueprint)."""
    for candidate in candidates:
        if (candidate.site, candidate.blueprint) in legal:
            continue
        there = sorted(blueprint for site, blueprint in legal if site == candidate.site)
        raise CommandRefusedError(
            f"{candidate.blueprint} is not certified for site {candidate.site!r}, or its tier is "
            f"not allowed in this run; legal there: {', '.join(there) or 'none'}"
        )


def build_graft(
    candidate: Candidate,
    number: int,
    *,
    sites: Mapping[str, Site],
    run_seed: int,
    device: torch.device,
    drill: bool,
) -> Graft:
    """Build the kernel of the run's seed `number`; the same arguments give the same weights."""
    site = sites[candidate.site]
    kernel = build_kernel(
        candidate.blueprint,
        site.interface,
        candidate.parameters,
        seed=run_seed * 1000 + number,
        drill=drill,
    )
    mode: BlendMode = candidate.blend or fitting_blend(kernel.output)
    return Graft(kernel, form=site.form, mode=mode, channels=site.interface.channels).to(device)


def make_seeds(
    candidates: Sequence[Candidate],
    *,
    sites: Mapping[str, Site],
    build: Callable[[Candidate, int], Graft],
    host_optimizer: Optimizer,
    run_seed: int,
    first: int,
    tournament: str,
    boundary: int,
    room: int,
) -> list[Seed]:
    """Return germinated seeds, numbered from `first`, each of at most `room` parameters.

    `build` makes the kernel of the seed with a number.

    Raises:
        CommandRefusedError: one of the kernels cannot be built, or is too large.
    """
    made = []
    for number, candidate in enumerate(candidates, start=first):
        started = time.perf_counter()
        try:
            graft = build(candidate, number)
        except (KernelRefusedError, SettingRefusedError) as refusal:
            raise CommandRefusedError(str(refusal)) from refusal
        seed = _make_seed(
            candidate,
            sites[candidate.site],
            graft,
            host_optimizer=host_optimizer,
            run_seed=run_seed,
            number=number,
            tournament=tournament,
            boundary=boundary,
        )
        seed.kernel_ms = 1e3 * (time.perf_counter() - started)
        check_budget(seed, room)
        made.append(seed)
    return made


def _make_seed(
    candidate: Candidate,
    site: Site,
    graft: Graft,
    *,
    host_optimizer: Optimizer,
    run_seed: int,
    number: int,
    tournament: str,
    boundary: int,
) -> Seed:
    seed_id = seed_id_of(number)
    return Seed(
        id=seed_id,
        site=site,
        candidate=candidate,
        body=graft,
        optimizer=sibling_optimizer(host_optimizer, graft.parameters()),
        tournament=tournament,
        born_boundary=boundary,
        stream=seed_stream(run_seed, seed_id),
        parameter_count=sum(parameter.numel() for parameter in graft.parameters()),
    )
