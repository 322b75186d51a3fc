"""The rest of a removed seed: its site's embargo, reset and the gate after it, and its record."""

from collections.abc import Callable, Iterable

from torch import nn

from esper_async.kasmina.branch import Branch, parameters_of
from esper_async.kasmina.gates import GateResult, reset_done
from esper_async.kasmina.kernels.graft import GraftHook
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.snapshot import nested_tensors
from esper_async.kasmina.stage import Stage

MOST_RECORDS = 256
"""Records of seeds past their reset that a run keeps; its journal has them all."""
_NAMED = 10
Move = Callable[[Seed, Stage, GateResult | None], None]


def rest(seeds: Iterable[Seed], *, move: Move, look: Callable[[Seed], GateResult]) -> None:
    """Lead removed seeds on by one boundary, through embargo and reset back to DORMANT.

    `move` changes a seed's stage; `look` is G5, asked once the embargo is over. A seed that does
    not pass stays in RESETTING, which keeps its site closed, and is looked at again at the next
    boundary; the move into that stage tells its failure, once.
    """
    for seed in seeds:
        if seed.stage is Stage.CULLED:
            move(seed, Stage.EMBARGOED, None)
        seed.rest_boundaries -= 1
        if seed.rest_boundaries > 0:
            continue
        gate = look(seed)
        if seed.stage is Stage.EMBARGOED:
            move(seed, Stage.RESETTING, None if gate.passed else gate)
        if gate.passed:
            move(seed, Stage.DORMANT, gate)


def reset_verdict(
    seed: Seed, branch: Branch, training: Iterable[Seed], *, boundary: int
) -> GateResult:
    """Return G5's verdict: what is left of a seed in the network, in optimizers, and in itself.

    `training` are the seeds that are trained in shadow. A kernel that a caller has kept for itself
    is no trace.
    """
    site = branch.model.get_submodule(seed.site.path)
    left = {
        "modules": len(branch.grafts_named(seed.attribute)),
        "attributes": int(hasattr(site, seed.attribute)),
        "hooks": _hooks_left(seed, site, branch.model),
        "in_optimizers": _left_in_optimizers(seed, branch),
        "tensors": _held(seed),
        "in_training": int(any(other is seed for other in training)),
    }
    return reset_done(left=left, boundary=boundary)


def forget(seeds: dict[str, Seed], *, most: int) -> None:
    """Drop the records of seeds past their reset, those that ended first; the newest `most` stay.

    A tournament's go together, and only once all of its seeds are past it: a report that is still
    to be written names every one of them.
    """
    reset = [seed for seed in seeds.values() if seed.stage is Stage.DORMANT]
    surplus = len(reset) - most
    if surplus <= 0:
        return
    lasting = {seed.tournament for seed in seeds.values() if seed.stage is not Stage.DORMANT}
    ended: dict[str, int] = {}
    for seed in reset:
        last = max(seed.ended_boundary or 0, ended.get(seed.tournament, 0))
        ended[seed.tournament] = last
    for tournament in sorted(ended.keys() - lasting, key=lambda name: (ended[name], int(name[1:]))):
        members = [seed.id for seed in reset if seed.tournament == tournament]
        if len(members) > surplus:
            return
        surplus -= len(members)
        for seed_id in members:
            del seeds[seed_id]


def unknown_seed(seed_id: str, seeds: Iterable[str], *, planted: int) -> str:
    """Say that a run has no such seed, or no longer; and which it has, the newest of them."""
    number = seed_id.removeprefix("s")
    if number.isdecimal() and 1 <= int(number) <= planted:
        return f"seed {seed_id} ended long ago; its record was dropped"
    known = list(seeds)
    omitted = "... " if len(known) > _NAMED else ""
    listed = omitted + ", ".join(known[-_NAMED:]) if known else "none"
    return f"there is no seed {seed_id!r}; this run has: {listed}"


def _hooks_left(seed: Seed, site: nn.Module, model: nn.Module) -> int:
    """Count the hooks of a site that send its output through this seed, or through nobody's."""
    grafts = [h.graft for h in site._forward_hooks.values() if isinstance(h, GraftHook)]
    in_the_network = set(model.modules())
    return sum(graft is seed.body or graft not in in_the_network for graft in grafts)


def _left_in_optimizers(seed: Seed, branch: Branch) -> int:
    own = {id(parameter) for parameter in branch.owners.left_of(seed.owner)}
    count = 0
    for name, optimizer in branch.optimizers().items():
        held = [*parameters_of(optimizer), *optimizer.state]
        count += len(held) if name == seed.id else sum(id(tensor) in own for tensor in held)
    return count


def _held(seed: Seed) -> int:
    """Count the tensors that a seed's record holds."""
    parts = [
        [] if seed.body is None else [*seed.body.parameters(), *seed.body.buffers()],
        [] if seed.stream is None else [seed.stream.state],
        [] if seed.optimizer is None else list(seed.optimizer.state.values()),
        seed.buffers,
        seed.gradients.state_dict(),
    ]
    return sum(1 for _ in nested_tensors(parts))
