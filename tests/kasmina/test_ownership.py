"""Every parameter has one owner, and no optimizer steps a parameter that is not its owner's."""

import copy
import gc
import weakref
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from esper_async.kasmina.ownership import HOST, Owners, OwnershipError
from tests.growth_hosts import differing, make_host, plain_step
from tests.kasmina.plots import Plot


def state_of(plot: Plot) -> dict[str, Any]:
    gradients = [None if p.grad is None else p.grad.clone() for p in plot.model.parameters()]
    return {
        "model": copy.deepcopy(dict(plot.model.state_dict())),
        "optimizer": copy.deepcopy(plot.optimizer.state_dict()["state"]),
        "gradients": gradients,
    }


def with_gradients(plot: Plot) -> None:
    """Leave gradients that a step would use."""
    inputs, targets = plot.batches[0]
    nn.functional.cross_entropy(plot.model(inputs), targets).backward()  # type: ignore[no-untyped-call]


def owners_of(plot: Plot) -> dict[str, str | None]:
    return {name: plot.branch.owners.owner_of(p) for name, p in plot.model.named_parameters()}


def test_every_parameter_has_one_owner_through_the_whole_life_of_a_seed() -> None:
    plot = Plot("mlp", g4_margin=-1e9)
    assert set(owners_of(plot).values()) == {HOST}
    (seed,) = plot.plant("BP021")
    own = list(seed.graft.parameters())
    assert {plot.branch.owners.owner_of(p) for p in own} == {"seed s1"}
    for stage in ("BLENDING", "FOSSILIZED"):
        plot.until(stage)
        found = owners_of(plot)
        assert {name for name, owner in found.items() if owner == "seed s1"} == {
            name for name in found if ".esper_s1." in name
        }
        assert None not in found.values()


def test_the_hosts_optimizer_may_not_step_a_seeds_parameter_and_nothing_has_changed() -> None:
    plot = Plot("mlp", g4_margin=-1e9)
    (seed,) = plot.plant("BP021")
    plot.until("BLENDING")
    name, parameter = next(
        (name, p) for name, p in plot.model.named_parameters() if ".esper_s1." in name
    )
    plot.optimizer.add_param_group({"params": [parameter]})
    with_gradients(plot)
    before = state_of(plot), copy.deepcopy(seed.optimizer.state_dict())  # type: ignore[union-attr]
    with pytest.raises(OwnershipError) as refused:
        plot.optimizer.step()

    assert name in str(refused.value)
    assert "belongs to seed s1" in str(refused.value)
    assert "the optimizer of the host" in str(refused.value)
    after = state_of(plot), copy.deepcopy(seed.optimizer.state_dict())  # type: ignore[union-attr]
    assert differing(before[0], after[0]) == []
    assert differing(before[1], after[1]) == []
    with pytest.raises(OwnershipError):  # for as long as it is there
        plot.optimizer.step()


def test_a_seeds_optimizer_may_not_step_its_host() -> None:
    plot = Plot("mlp")
    (seed,) = plot.plant("BP021")
    plot.step(0)
    victim = plot.model.get_parameter("head.weight")
    assert seed.optimizer is not None
    seed.optimizer.param_groups[0]["params"].append(victim)
    before = copy.deepcopy(seed.graft.state_dict())
    with pytest.raises(
        OwnershipError, match=r"'head.weight' in group 0 belongs to the host, .* s1"
    ):
        plot.step(1)
    assert differing(before, seed.graft.state_dict()) == []


def test_a_parameter_put_in_anothers_place_is_noticed() -> None:
    plot = Plot("mlp")
    plot.plant("BP021")
    plot.step(0)
    (seed,) = plot.executor.seeds.values()
    group = plot.optimizer.param_groups[0]["params"]
    group[-1] = next(seed.graft.parameters())
    with pytest.raises(OwnershipError, match="belongs to seed s1"):
        plot.optimizer.step()


def test_a_new_parameter_is_refused_with_the_way_out_and_trains_once_it_is_registered() -> None:
    plot = Plot("mlp")
    plot.step(0)
    extra = nn.Linear(8, 3)
    plot.model.extra = extra
    plot.optimizer.add_param_group({"params": extra.parameters()})
    before = state_of(plot)
    with pytest.raises(OwnershipError, match=r"'extra.weight' .* has no owner.*Grower\.register"):
        plot.optimizer.step()
    assert differing(before, state_of(plot)) == []

    plot.branch.owners.register(HOST, extra.parameters())
    for parameter in extra.parameters():
        parameter.grad = torch.ones_like(parameter)
    weight = extra.weight.detach().clone()
    plot.optimizer.step()
    assert not torch.equal(weight, extra.weight)


def test_a_stranger_to_the_model_is_told_by_its_group_and_shape() -> None:
    plot = Plot("mlp")
    plot.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2, 5))]})
    with pytest.raises(OwnershipError, match=r"of shape \(2, 5\) in group 1 has no owner"):
        plot.optimizer.step()


def test_what_the_callers_optimizer_trained_from_the_start_is_the_hosts() -> None:
    model = make_host("mlp")
    temperature = nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([*model.parameters(), temperature], lr=0.1)
    plot = Plot("mlp", model=model, optimizer=optimizer)
    assert plot.branch.owners.owner_of(temperature) == HOST
    plot.step(0)


def test_layers_that_are_unfrozen_later_need_no_word() -> None:
    model = make_host("mlp")
    optimizer = torch.optim.SGD(model.get_submodule("head").parameters(), lr=0.1)
    plot = Plot("mlp", model=model, optimizer=optimizer)
    plot.step(0)
    optimizer.add_param_group({"params": model.get_submodule("body").parameters()})
    plot.step(1)


def test_a_parameter_that_has_an_owner_gets_no_second_one() -> None:
    plot = Plot("mlp")
    (seed,) = plot.plant("BP021")
    stranger = nn.Parameter(torch.zeros(1))
    with pytest.raises(OwnershipError, match="belongs to seed s1"):
        plot.branch.owners.register(HOST, [stranger, next(seed.graft.parameters())])
    assert plot.branch.owners.owner_of(stranger) is None


def test_a_twin_has_owners_of_its_own() -> None:
    plot = Plot("mlp", g4_margin=-1e9)
    plot.plant("BP021")
    plot.until("FOSSILIZED")
    twin = plot.branch.copy()
    owners = {name: twin.owners.owner_of(p) for name, p in twin.model.named_parameters()}
    assert owners == owners_of(plot)
    stolen = next(p for name, p in twin.model.named_parameters() if ".esper_s1." in name)
    twin.optimizer.add_param_group({"params": [stolen]})
    with pytest.raises(OwnershipError, match="belongs to seed s1"):
        twin.optimizer.step()


def test_owners_keep_no_parameter_alive() -> None:
    owners = Owners(make_host("mlp"))
    parameter = nn.Parameter(torch.zeros(3))
    owners.register("seed s1", [parameter])
    gone = weakref.ref(parameter)
    del parameter
    gc.collect()
    assert gone() is None
    assert owners.left_of("seed s1") == []
    for _ in range(100):  # one of them may be given the same address
        assert owners.owner_of(nn.Parameter(torch.zeros(3))) is None


def test_a_step_looks_at_owners_only_when_the_groups_have_changed() -> None:
    plot = Plot("mlp")
    plot.step(0)
    with mock.patch.object(Owners, "check", side_effect=AssertionError("looked")):
        for index in range(1, 4):
            plain_step(plot.model, plot.optimizer, plot.batches[index])
        plot.optimizer.add_param_group({"params": []})
        with pytest.raises(AssertionError, match="looked"):
            plot.optimizer.step()


def test_whoever_asked_is_told_of_a_refusal() -> None:
    plot = Plot("mlp")
    told: list[str] = []
    plot.branch.owners.on_refusal = told.append
    plot.optimizer.add_param_group({"params": [nn.Parameter(torch.zeros(2))]})
    with pytest.raises(OwnershipError) as refused:
        plot.optimizer.step()
    assert told == [str(refused.value)]


def test_a_seed_that_left_owns_nothing_and_its_number_may_come_again() -> None:
    plot = Plot("mlp")
    (seed,) = plot.plant("BP021")
    kept_by_a_caller = list(seed.graft.parameters())
    plot.executor.cull("s1", "a test")
    plot.optimizer.add_param_group({"params": kept_by_a_caller})
    with pytest.raises(OwnershipError, match="belongs to seed s1"):  # it is under embargo
        plot.optimizer.step()
    del plot.optimizer.param_groups[1]
    saved = copy.deepcopy(plot.executor.state_dict())
    plot.executor.close()
    assert plot.branch.owners.owner_of(kept_by_a_caller[0]) is None
    again = Plot("mlp")
    again.executor.load_state_dict(saved)
