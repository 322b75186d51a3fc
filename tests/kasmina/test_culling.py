"""Culling leaves no trace: before BLENDING as if nothing had been, after it the twin's state."""

import copy
import gc
from typing import Any

import pytest
import torch

from esper_async.kasmina.branch import Branch
from esper_async.kasmina.kernels.graft import grafts_of
from tests.growth_hosts import differing, make_batches, make_host, plain_step
from tests.kasmina.plots import Plot

OPTIMIZERS: dict[str, Any] = {
    "sgd": lambda parameters: torch.optim.SGD(parameters, lr=0.05, momentum=0.9),
    "adam": lambda parameters: torch.optim.Adam(parameters, lr=1e-2),
    "adamw": lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, lr=1e-2),
    "adagrad": lambda parameters: torch.optim.Adagrad(parameters, lr=1e-2),
}


def state_of(model: Any, optimizer: Any) -> dict[str, Any]:
    return copy.deepcopy({"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()})


def alone(kind: Any, make_optimizer: Any, steps: int) -> dict[str, Any]:
    model = make_host(kind)
    optimizer = make_optimizer(model.parameters())
    batches = make_batches(kind)
    torch.manual_seed(2)
    for index in range(steps):
        plain_step(model, optimizer, batches[index % len(batches)])
    return state_of(model, optimizer)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_cull_before_blending_leaves_a_run_that_never_germinated(name: str) -> None:
    make_optimizer = OPTIMIZERS[name]
    expected = alone("conv2d", make_optimizer, 16)
    model = make_host("conv2d")
    plot = Plot("conv2d", model=model, optimizer=make_optimizer(model.parameters()))
    torch.manual_seed(2)
    for index in range(16):
        if index == 4:
            plot.plant("BP015", "BP014")
        if index == 10:
            plot.executor.cull("s1", "a test")
            plot.executor.cull("s2", "a test")
        plot.step(index)

    assert differing(expected, state_of(plot.model, plot.optimizer)) == []
    assert plot.executor.seeds["s1"].optimizer is None
    assert not plot.executor.seeds["s1"].buffers


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_cull_after_blending_takes_over_the_twin_bitwise(name: str) -> None:
    model = make_host("mlp")
    optimizer = OPTIMIZERS[name](model.parameters())
    plot = Plot("mlp", model=model, optimizer=optimizer)
    plot.plant("BP021")
    plot.until("BLENDING")
    for index in range(6):
        plot.step(index)
    trial = plot.executor.trial
    assert trial is not None
    twin = state_of(trial.twin.model, trial.twin.optimizer)
    moved = state_of(plot.model, plot.optimizer)
    plot.executor.cull("s1", "a test")

    assert differing(twin["model"], moved["model"]) != []
    assert differing(twin, state_of(plot.model, plot.optimizer)) == []
    assert grafts_of(plot.model) == {}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_twin_is_bitwise_a_run_without_the_seed(name: str) -> None:
    """Without randomness in the host, what a run adopts at a late cull is the run never grown."""

    def calm(kind: Any) -> Any:
        model = make_host(kind)
        for part in model.modules():
            if isinstance(part, torch.nn.Dropout):
                part.p = 0.0
        return model

    model = calm("mlp")
    plot = Plot("mlp", model=model, optimizer=OPTIMIZERS[name](model.parameters()))
    plot.plant("BP021")
    plot.until("SHADOWING")
    plot.executor.cull("s1", "a test")
    steps = plot.executor.steps
    other = calm("mlp")
    optimizer = OPTIMIZERS[name](other.parameters())
    for epoch in range(steps // 4):
        for index in range(4 * epoch, 4 * epoch + 4):
            plain_step(other, optimizer, plot.batches[index % 8])

    assert differing(state_of(other, optimizer), state_of(plot.model, plot.optimizer)) == []


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_seed_that_comes_and_stays_leaves_other_optimizer_state_alone(name: str) -> None:
    model = make_host("mlp")
    optimizer = OPTIMIZERS[name](model.parameters())
    plot = Plot("mlp", model=model, optimizer=optimizer, g4_margin=-1e9)
    for index in range(4):
        plot.step(index)
    groups = [list(group["params"]) for group in optimizer.param_groups]
    before = copy.deepcopy(optimizer.state_dict())
    plot.plant("BP021")
    assert differing(before, optimizer.state_dict()) == []
    plot.until("BLENDING")
    before = copy.deepcopy(optimizer.state_dict())
    plot.until("FOSSILIZED")

    assert [list(group["params"]) for group in optimizer.param_groups] == groups
    assert differing(before, optimizer.state_dict()) != []  # it went on training
    kept = plot.executor.kept[0]
    assert kept.optimizer is plot.branch.seed_optimizers["s1"]
    own = {id(p) for p in kept.kernel.parameters()}
    assert not own & {id(p) for group in optimizer.param_groups for p in group["params"]}


def test_a_kept_seed_trains_on_and_a_frozen_one_does_not() -> None:
    for frozen in (False, True):
        plot = Plot("mlp", g4_margin=-1e9, fossilized_frozen=frozen)
        plot.plant("BP021")
        plot.until("FOSSILIZED")
        before = copy.deepcopy(plot.executor.kept[0].kernel.state_dict())
        plot.step(0)
        moved = differing(before, plot.executor.kept[0].kernel.state_dict()) != []
        assert moved is not frozen


def test_resting_ends_dormant_and_the_reset_gate_passes() -> None:
    plot = Plot("mlp", embargo_boundaries=2)
    (seed,) = plot.plant("BP021")
    plot.step(0)
    plot.executor.cull("s1", "a test")
    for _ in range(2):
        plot.epoch()

    assert [move[1:] for move in plot.moves[-4:]] == [
        ("TRAINING", "CULLED"),
        ("CULLED", "EMBARGOED"),
        ("EMBARGOED", "RESETTING"),
        ("RESETTING", "DORMANT"),
    ]
    assert seed.gates[-1].name == "G5"
    assert seed.gates[-1].passed


def tensors() -> int:
    gc.collect()
    return sum(1 for thing in gc.get_objects() if type(thing) in (torch.Tensor, torch.nn.Parameter))


@pytest.mark.parametrize("late", [False, True])
def test_many_germinations_and_culls_leave_the_number_of_tensors_flat(late: bool) -> None:
    plot = Plot("mlp", dwell_steps=1, embargo_boundaries=1)
    counts = []
    for cycle in range(6):
        (seed,) = plot.plant("BP021")
        for index in range(2):
            plot.step(index)
        if late:
            plot.boundary()
            assert plot.executor.trial is not None
            plot.step(cycle)
        plot.executor.cull(seed.id, "a test")
        plot.boundary()
        counts.append(tensors())

    assert counts[1:] == [counts[1]] * 5


def test_what_is_hooked_into_a_twin_is_not_called_by_the_run() -> None:
    plot = Plot("mlp")
    twin = plot.branch.copy()
    called: list[str] = []
    for module in twin.model.modules():
        module.register_forward_hook(lambda *_: called.append("forward"))
        module.register_forward_pre_hook(lambda *_: called.append("before"))
    plot.model(plot.batches[0][0])
    assert called == []
    twin.model(plot.batches[0][0])
    assert set(called) == {"forward", "before"}


def test_a_twin_shares_no_tensor_with_the_run() -> None:
    plot = Plot("attention", g4_margin=-1e9)
    plot.plant("BP023")
    plot.until("FOSSILIZED")
    plot.step(0)
    twin = plot.branch.copy()
    mine = {t.data_ptr() for t in plot.model.state_dict().values()}
    theirs = {t.data_ptr() for t in twin.model.state_dict().values()}

    assert not mine & theirs
    assert isinstance(twin, Branch)
    assert list(twin.seed_optimizers) == ["s1"]
    owned = {id(p) for p in twin.model.parameters()}
    assert all(
        id(p) in owned
        for optimizer in (twin.optimizer, *twin.seed_optimizers.values())
        for group in optimizer.param_groups
        for p in group["params"]
    )


def test_a_twin_trains_in_the_networks_own_mode() -> None:
    """A caller may evaluate its model around a boundary and put it back for the next epoch."""
    plot = Plot("conv2d")
    plot.plant("BP015")
    for index in range(4):
        plot.step(index)
    plot.model.eval()
    plot.boundary()
    plot.model.train()
    plot.step(0)
    trial = plot.executor.trial
    assert trial is not None

    assert all(part.training for part in trial.twin.model.modules())


def test_without_a_way_to_train_a_twin_a_late_cull_returns_to_the_snapshot() -> None:
    plot = Plot("mlp", twin=False)
    plot.plant("BP021")
    plot.until("BLENDING")
    snapshot = state_of(plot.model, plot.optimizer)
    snapshot["model"] = {k: v for k, v in snapshot["model"].items() if "esper_" not in k}
    for index in range(3):
        plot.step(index)
    plot.executor.cull("s1", "a test")

    assert differing(snapshot, state_of(plot.model, plot.optimizer)) == []


def test_the_twin_follows_whatever_a_schedule_changes() -> None:
    model = make_host("mlp")
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=200)
    plot = Plot("mlp", model=model, optimizer=optimizer, ramp_boundaries=9)
    plot.plant("BP021")
    plot.until("BLENDING")
    trial = plot.executor.trial
    assert trial is not None
    used = []
    for index in range(3):
        used.append((optimizer.param_groups[0]["lr"], optimizer.param_groups[0]["betas"]))
        plot.step(index)
        schedule.step()
        group = trial.twin.optimizer.param_groups[0]
        assert (group["lr"], group["betas"]) == used[-1]
    assert len(set(used)) == 3
