"""Whether a command is one that may be given in a view at all, whoever proposes it."""

from esper_async.tamiyo.command import Command, Germinate, NoOp, Operate, PauseSeeds
from esper_async.tamiyo.legality import is_legal
from esper_async.tamiyo.view import View


def why_illegal(command: Command, view: View) -> str | None:
    """Return in words why a command is not legal in a view; None if it is."""
    if isinstance(command, NoOp):
        return None
    if isinstance(command, Germinate):
        return _why_no_planting(command, view)
    stages = {seed.id: seed.stage for seed in view.seeds}
    seeds = command.seeds if isinstance(command, PauseSeeds) else (command.seed,)
    unknown = [seed for seed in seeds if seed not in stages]
    if unknown:
        return f"there is no seed {unknown[0]!r} at boundary {view.boundary}"
    if isinstance(command, PauseSeeds):
        return None
    operation = command.verb if isinstance(command, Operate) else "CULL"
    stage = stages[command.seed]
    if not is_legal(operation, stage):
        return f"{operation} of {command.seed}, which is {stage.name}"
    return None


def _why_no_planting(command: Germinate, view: View) -> str | None:
    count = len(command.candidates)
    if not 1 <= count <= view.free_candidates:
        return f"{count} candidates where {view.free_candidates} may be planted"
    offered = {(place.site, place.blueprint) for place in view.placements}
    for each in command.candidates:
        if (each.site, each.blueprint) not in offered:
            return f"{each.blueprint} at {each.site} is not offered at boundary {view.boundary}"
    return None
