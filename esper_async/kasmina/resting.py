"""The rest of a removed seed: embargo of its site, reset, and the gate that looks for traces."""

from collections.abc import Callable, Iterable

from esper_async.kasmina.branch import Branch
from esper_async.kasmina.gates import GateResult, reset_done
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.stage import Stage

Move = Callable[[Seed, Stage, GateResult | None], None]


def rest(seeds: Iterable[Seed], *, move: Move, look: Callable[[Seed], GateResult]) -> None:
    """Lead removed seeds on by one boundary, through embargo and reset back to DORMANT.

    `move` changes a seed's stage; `look` is G5, asked at the end of an embargo.
    """
    for seed in seeds:
        if seed.stage is Stage.CULLED:
            move(seed, Stage.EMBARGOED, None)
        seed.rest_boundaries -= 1
        if seed.rest_boundaries <= 0:
            move(seed, Stage.RESETTING, None)
            move(seed, Stage.DORMANT, look(seed))


def reset_verdict(seed: Seed, branch: Branch, *, boundary: int) -> GateResult:
    """Return G5's verdict on a removed seed: whether anything of it is left."""
    branch.owners.release(seed.owner)
    site = branch.model.get_submodule(seed.site.path)
    return reset_done(
        left_in_optimizers=int(seed.id in branch.seed_order),
        attached=hasattr(site, seed.attribute),
        boundary=boundary,
    )
