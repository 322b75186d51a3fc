"""A seed comes, blends, is kept or goes: no other parameter's optimizer state notices."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from tests.growth_hosts import differing, make_host
from tests.kasmina.plots import Plot
from tests.kasmina.test_culling import OPTIMIZERS


def planted(name: str) -> Plot:
    model = make_host("conv1d")
    optimizer = OPTIMIZERS[name](model.parameters())
    plot = Plot(
        "conv1d", model=model, optimizer=optimizer, sites={"here": "stem", "next": "pool"},
        g4_margin=-1e9,
    )  # fmt: skip
    for index in range(4):
        plot.step(index)
    return plot


def moments(plot: Plot) -> dict[str, Any]:
    """Return a copy of the optimizer state of the host and of each seed that learns."""
    seeds = {seed.id: seed.optimizer for seed in plot.executor.with_optimizer()}
    living = {"host": plot.optimizer, **{key: each for key, each in seeds.items() if each}}
    return copy.deepcopy({name: each.state_dict()["state"] for name, each in living.items()})


def unnoticed(plot: Plot, change: Callable[[], object]) -> set[str]:
    """Make a change; return whose optimizer state is there no longer, or only now.

    That of whoever is there before and after must be the same to the bit.
    """
    before = moments(plot)
    change()
    after = moments(plot)
    for name in before.keys() & after.keys():
        assert before[name]
        assert differing(before[name], after[name]) == [], name
    return before.keys() ^ after.keys()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_change_of_stage_touches_the_optimizer_state_of_others(name: str) -> None:
    plot = planted(name)
    assert unnoticed(plot, lambda: plot.plant("BP031")) == {"s1"}
    targets: list[str] = []
    for epoch in range(12):
        for index in range(4):
            plot.step(4 * epoch + index)
        if epoch == 6:
            assert unnoticed(plot, lambda: plot.plant("BP022", site="next")) == {"s2"}
            for index in range(4):
                plot.step(index)
        unnoticed(plot, plot.boundary)
        targets = [target for _, _, target in plot.moves]
        if targets.count("BLENDING") == 2:
            break
    assert "FOSSILIZED" in targets
    assert targets.count("BLENDING") == 2
    assert plot.executor.kept[0].id == "s1"


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_cull_in_training_touches_the_optimizer_state_of_nobody_else(name: str) -> None:
    plot = planted(name)
    plot.plant("BP031", "BP022")
    for index in range(3):
        plot.step(index)
    assert unnoticed(plot, lambda: plot.executor.cull("s1", "a test")) == {"s1"}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("stage", ["TRAINING", "BLENDING", "FOSSILIZED"])
def test_a_grown_network_goes_on_bitwise_from_a_saved_state(name: str, stage: str) -> None:
    plot = planted(name)
    plot.plant("BP031")
    plot.until(stage)
    plot.step(0)
    saved = copy.deepcopy(plot.executor.state_dict())
    other = Plot(
        "conv1d",
        model=(model := make_host("conv1d")),
        optimizer=OPTIMIZERS[name](model.parameters()),
        sites=plot.named,
        g4_margin=-1e9,
    )
    other.executor.load_state_dict(saved)
    assert differing(moments(plot), moments(other)) == []
    for each in (plot, other):
        torch.manual_seed(5)
        for index in range(3):
            each.step(index)
    assert differing(plot.executor.state_dict(), other.executor.state_dict()) == []
