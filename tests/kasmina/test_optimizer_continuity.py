"""A seed comes, blends, is kept or goes: no other parameter's optimizer state notices."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.growth_hosts import differing, make_host
from tests.kasmina.plots import Plot
from tests.kasmina.test_culling import OPTIMIZERS

QUICK: dict[str, Any] = {
    "dwell_steps": 2,
    "g4_margin": -1e9,
    "sites": {"here": "body", "early": "body.2"},
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plot_of(name: str) -> Plot:
    model = make_host("mlp")
    return Plot("mlp", model=model, optimizer=OPTIMIZERS[name](model.parameters()), **QUICK)


def planted(name: str) -> Plot:
    plot = plot_of(name)
    plot.step(0)
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
    assert unnoticed(plot, lambda: plot.plant("BP021")) == {"s1"}
    for epoch in range(8):
        plot.step(2 * epoch)
        plot.step(2 * epoch + 1)
        if epoch == 2:
            assert unnoticed(plot, lambda: plot.plant("BP014", site="early")) == {"s2"}
            plot.step(0)
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
    plot.plant("BP021", "BP014")
    plot.step(1)
    assert unnoticed(plot, lambda: plot.executor.cull("s1", "a test")) == {"s1"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_grown_network_goes_on_bitwise_from_a_saved_state(name: str) -> None:
    plot = planted(name)
    plot.plant("BP021")
    plot.until("BLENDING")
    plot.step(0)
    saved = copy.deepcopy(plot.executor.state_dict())
    other = plot_of(name)
    other.executor.load_state_dict(saved)
    assert differing(moments(plot), moments(other)) == []
    for each in (plot, other):
        torch.manual_seed(5)
        each.step(1)
    assert differing(plot.executor.state_dict(), other.executor.state_dict()) == []
