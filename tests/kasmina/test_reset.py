"""G5 looks for itself: while anything of a removed seed is left, its site stays closed."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from esper_async.kasmina.kernels import build_kernel
from esper_async.kasmina.kernels.graft import Graft, GraftHook, attach
from esper_async.kasmina.planting import CommandRefusedError
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.stage import Stage
from tests.growth_hosts import differing, make_host
from tests.kasmina.plots import Plot

Cleaning = Callable[[], object]


def leave_a_module(plot: Plot, seed: Seed, graft: Graft) -> Cleaning:
    site = plot.model.get_submodule(seed.site.path)
    site.add_module(seed.attribute, graft)
    return lambda: delattr(site, seed.attribute)


def leave_an_attribute(plot: Plot, seed: Seed, graft: Graft) -> Cleaning:
    site = plot.model.get_submodule(seed.site.path)
    object.__setattr__(site, seed.attribute, graft)
    return lambda: object.__delattr__(site, seed.attribute)


def leave_a_hook(plot: Plot, seed: Seed, graft: Graft) -> Cleaning:
    site = plot.model.get_submodule(seed.site.path)
    return site.register_forward_hook(GraftHook(graft)).remove


def leave_a_parameter(plot: Plot, seed: Seed, graft: Graft) -> Cleaning:
    plot.optimizer.add_param_group({"params": list(graft.parameters())})
    return plot.optimizer.param_groups.pop


def leave_moments(plot: Plot, seed: Seed, graft: Graft) -> Cleaning:
    first = next(graft.parameters())
    plot.optimizer.state[first] = {"step": torch.zeros(())}
    return lambda: plot.optimizer.state.pop(first)


def leave_an_optimizer(plot: Plot, seed: Seed, graft: Graft) -> Cleaning:
    plot.branch.seed_optimizers[seed.id] = torch.optim.SGD(graft.parameters(), lr=0.1)
    return lambda: plot.branch.seed_optimizers.pop(seed.id)


def leave_buffers(plot: Plot, seed: Seed, graft: Graft) -> Cleaning:
    seed.buffers = {"body.1.running_mean": torch.zeros(16)}
    return seed.buffers.clear


LEAVINGS = {
    "modules": leave_a_module,
    "attributes": leave_an_attribute,
    "hooks": leave_a_hook,
    "in_optimizers": leave_a_parameter,
    "in_optimizers ": leave_moments,
    "in_optimizers  ": leave_an_optimizer,
    "tensors": leave_buffers,
}


def culled(**options: Any) -> tuple[Plot, Seed, Graft]:
    plot = Plot("mlp", embargo_boundaries=1, **options)
    (seed,) = plot.plant("BP021")
    plot.step(0)
    graft = seed.graft
    plot.executor.cull("s1", "a test")
    return plot, seed, graft


@pytest.mark.parametrize("what", LEAVINGS)
def test_whatever_is_left_of_a_seed_keeps_it_in_reset_and_its_site_closed(what: str) -> None:
    plot, seed, graft = culled()
    clean = LEAVINGS[what](plot, seed, graft)
    plot.boundary()

    assert seed.stage is Stage.RESETTING
    gate = seed.gates[-1]
    assert (gate.name, gate.passed) == ("G5", False)
    assert gate.numbers[what.strip()]
    assert what.strip().replace("_", " ") in gate.reason
    with pytest.raises(CommandRefusedError, match="under embargo"):
        plot.plant("BP014")

    plot.moves.clear()
    plot.boundary()  # looked at again, and told once
    assert (plot.moves, seed.gates[-1]) == ([], gate)

    clean()
    plot.boundary()
    assert seed.stage is Stage.DORMANT
    assert seed.gates[-1].passed
    plot.plant("BP014")


def test_a_seed_that_still_trains_does_not_pass() -> None:
    plot = Plot("mlp")
    (seed,) = plot.plant("BP021")
    plot.step(0)
    gate = plot.executor._reset_gate(seed)
    assert not gate.passed
    assert gate.numbers["in_training"] == 1.0
    assert gate.numbers["tensors"]


def test_a_seed_on_trial_does_not_pass() -> None:
    plot = Plot("mlp")
    plot.plant("BP021")
    plot.until("BLENDING")
    gate = plot.executor._reset_gate(plot.executor.seeds["s1"])
    assert not gate.passed
    assert {name for name, number in gate.numbers.items() if number} >= {
        "modules",
        "hooks",
        "in_optimizers",
        "tensors",
    }


@pytest.mark.parametrize("late", [False, True])
def test_an_ordinary_removal_leaves_nothing_that_could_be_counted(late: bool) -> None:
    plot = Plot("conv2d", embargo_boundaries=1)
    (seed,) = plot.plant("BP015")
    plot.step(0)
    if late:
        plot.until("BLENDING")
        plot.step(1)
    plot.executor.cull("s1", "a test")
    plot.boundary()
    gate = seed.gates[-1]
    assert (seed.stage, gate.name, gate.passed) == (Stage.DORMANT, "G5", True)
    assert set(gate.numbers.values()) == {0.0}


def test_a_kernel_that_somebody_else_holds_closes_no_site() -> None:
    plot, seed, graft = culled()
    plot.boundary()
    assert seed.stage is Stage.DORMANT
    assert list(graft.parameters())


def test_the_grafts_that_a_host_came_with_are_no_trace() -> None:
    """A grown model that grows on has seeds of its own, and numbers begin at one again."""
    model = make_host("mlp")
    plain = Plot("mlp", model=copy.deepcopy(model))
    kernel = build_kernel("BP014", plain.executor.sites["here"].interface, seed=1)
    attach(model.get_submodule("body.4"), Graft(kernel, form="nf", mode="convex"), "esper_s1")
    plot = Plot("mlp", model=model, optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    (seed,) = plot.plant("BP021")
    plot.step(0)
    plot.executor.cull("s1", "a test")
    plot.boundary()
    assert seed.stage is Stage.DORMANT


def test_a_seed_in_reset_is_saved_and_looked_at_again() -> None:
    plot, seed, graft = culled()
    leave_a_parameter(plot, seed, graft)
    plot.boundary()
    saved = copy.deepcopy(plot.executor.state_dict())
    saved["branch"]["optimizer"]["param_groups"].pop()
    other = Plot("mlp")
    other.executor.load_state_dict(saved)
    assert other.executor.seeds["s1"].stage is Stage.RESETTING
    assert other.executor.resting_sites() == {"here"}
    other.boundary()
    assert other.executor.seeds["s1"].stage is Stage.DORMANT


def test_looking_changes_nothing() -> None:
    plot = Plot("mlp")
    (seed,) = plot.plant("BP021")
    plot.step(0)
    before = copy.deepcopy(plot.executor.state_dict())
    plot.executor._reset_gate(seed)
    assert differing(before, plot.executor.state_dict()) == []
    assert isinstance(seed.kernel, nn.Module)
    assert plot.branch.owners.owner_of(next(seed.graft.parameters())) == "seed s1"
