"""Views for the tests of the graph policy: small ones by hand, and many at random."""

from collections.abc import Sequence

from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.imitation.states import StateDraw
from esper_async.tamiyo.view import MachineView, Placement, SeedView, SiteView, View

BLUEPRINTS = ("BP002", "BP003", "BP009")


def site(name: str, depth: int) -> SiteView:
    return SiteView(name, depth, "feature", 8, 1, 4, False, name, 72, 2, 1.0)


def seed(name: str, stage: Stage, where: str = "first", blueprint: str = "BP002") -> SeedView:
    return SeedView(name, where, blueprint, stage, 72)


def view(
    boundary: int = 14,
    *,
    seeds: Sequence[SeedView] = (),
    sites: int = 3,
    planting: bool = True,
    free: int = 8,
    machine: MachineView | None = None,
    remaining: int = 800,
) -> View:
    names = ("first", "second", "third", *(f"site{n}" for n in range(4, sites + 1)))[:sites]
    places = tuple(site(name, depth) for depth, name in enumerate(names))
    return View(
        boundary=boundary,
        last_boundary=100,
        validation_losses=[1.0] * boundary,
        training_losses=[0.9] * boundary,
        seeds=seeds,
        placements=[
            Placement(place.name, place.depth, blueprint, "residual", 10 * (number + 1))
            for place in places
            for number, blueprint in enumerate(BLUEPRINTS)
        ]
        if planting
        else [],
        free_candidates=free,
        host_parameters=100,
        remaining_parameters=remaining,
        trial_boundaries=7,
        sites=places,
        blueprints=BLUEPRINTS,
        machine=machine,
    )


def drawn_views(count: int, *, seed: int = 1, sites: tuple[int, int] = (1, 16)) -> list[View]:
    draw = StateDraw(seed)
    return [draw.view(sites=sites) for _ in range(count)]
