"""A twin that stopped being finite is not taken over: the run goes back to before the blend."""

import copy
import math
from typing import Any

import pytest
import torch
from torch import nn

from esper_async.kasmina.branch import Branch
from esper_async.kasmina.snapshot import Snapshot
from esper_async.kasmina.stage import Stage
from tests.growth_hosts import differing, make_batches, make_host, plain_step
from tests.kasmina.plots import Plot


def on_trial(**options: Any) -> tuple[Plot, dict[str, Any]]:
    """Return a plot some steps into a trial, and the run's state before the blend."""
    plot = Plot("mlp", **options)
    plot.plant("BP021")
    plot.until("TRAINING")
    for index in range(4):
        plot.step(index)
    before = state_of(plot)
    plot.boundary()
    assert plot.executor.trial is not None
    for index in range(3):
        plot.step(index)
    return plot, before


def state_of(plot: Plot) -> dict[str, Any]:
    state = {"model": dict(plot.model.state_dict()), "optimizer": plot.optimizer.state_dict()}
    return copy.deepcopy(state)


def spoil_weights(branch: Branch) -> None:
    with torch.no_grad():
        next(branch.model.parameters()).view(-1)[0] = math.nan


def spoil_moments(branch: Branch) -> None:
    next(iter(branch.optimizer.state.values()))["exp_avg"].view(-1)[0] = math.inf


@pytest.mark.parametrize("spoil", [spoil_weights, spoil_moments])
def test_a_cull_beside_a_spoilt_twin_returns_to_the_state_before_the_blend(spoil: Any) -> None:
    plot, before = on_trial()
    assert plot.executor.trial is not None
    spoil(plot.executor.trial.twin)
    plot.executor.cull("s1", "a test")

    assert differing(before, state_of(plot)) == []
    gate = plot.executor.seeds["s1"].gates[-1]
    assert gate.numbers["spoilt_twin_tensors"] == 1.0
    assert gate.reason.startswith("a test; ")
    assert "twin" in gate.reason
    assert "before the blend" in gate.reason


def test_a_sound_twin_is_taken_over_and_nothing_is_said_of_a_snapshot() -> None:
    plot, before = on_trial()
    plot.executor.cull("s1", "a test")

    assert differing(before, state_of(plot)) != []
    gate = plot.executor.seeds["s1"].gates[-1]
    assert (gate.reason, dict(gate.numbers)) == ("a test", {})


def test_a_seed_refused_by_its_gate_leaves_no_spoilt_network_either() -> None:
    """G4 fails closed on a twin whose loss is not finite; its verdict tells of the snapshot."""
    plot, _ = on_trial(g4_margin=-1e9, window_boundaries=2, max_windows=1)
    plot.until("PROBATIONARY")
    trial = plot.executor.trial
    assert trial is not None
    spoil_weights(trial.twin)
    plot.epoch()

    assert plot.moves[-1] == ("s1", "PROBATIONARY", "CULLED")
    verdicts = [gate for gate in plot.executor.seeds["s1"].gates if gate.name == "G4"]
    assert [gate.passed for gate in verdicts] == [False]
    assert verdicts[0].numbers["margin"] == math.inf
    assert verdicts[0].numbers["spoilt_twin_tensors"]
    assert all(torch.isfinite(tensor).all() for tensor in plot.model.state_dict().values())


def test_the_snapshot_survives_a_checkpoint_bitwise() -> None:
    plot, before = on_trial()
    assert plot.executor.trial is not None
    spoil_weights(plot.executor.trial.twin)
    saved = copy.deepcopy(plot.executor.state_dict())
    other = Plot("mlp")
    other.executor.load_state_dict(saved)
    other.executor.cull("s1", "a test")

    assert other.executor.seeds["s1"].stage is Stage.CULLED
    assert differing(before, state_of(other)) == []


def test_learning_rates_and_whoever_holds_the_groups_stay() -> None:
    plot, _ = on_trial()
    assert plot.executor.trial is not None
    spoil_weights(plot.executor.trial.twin)
    held = plot.optimizer.param_groups[0]
    held["lr"] = 0.123
    plot.executor.cull("s1", "a test")

    assert plot.optimizer.param_groups[0] is held
    assert held["lr"] == 0.123
    assert all(parameter.grad is None for parameter in plot.model.parameters())


class Masked(nn.Module):
    """Holds an infinity by design, in a buffer that checkpoints leave out."""

    mask: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.inner = make_host("mlp")
        self.register_buffer("mask", torch.tensor([0.0, -math.inf]), persistent=False)


def branch_of(model: nn.Module) -> Branch:
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    return Branch(model, optimizer, clip_norm=1.0)


def test_an_infinity_that_was_there_before_spoils_nothing() -> None:
    branch = branch_of(Masked())
    snapshot = Snapshot(branch)
    assert snapshot.spoilt_in(branch) == []
    with torch.no_grad():
        next(branch.model.parameters()).fill_(math.nan)
    assert len(snapshot.spoilt_in(branch)) == 1


def test_buffers_that_no_checkpoint_holds_are_taken_back_too() -> None:
    model = Masked()
    branch = branch_of(model)
    snapshot = Snapshot(branch)
    model.mask[0] = math.nan
    snapshot.restore(branch)
    assert model.mask[0] == 0.0


@pytest.mark.parametrize(
    "make_optimizer",
    [
        lambda p: torch.optim.SGD(p, lr=0.05),
        lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
        lambda p: torch.optim.Adam(p, lr=1e-2),
        lambda p: torch.optim.Adagrad(p, lr=1e-2),
    ],
)
def test_optimizers_of_every_kind_go_on_from_the_snapshot_bitwise(make_optimizer: Any) -> None:
    model = make_host("mlp")
    for part in model.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    optimizer = make_optimizer(model.parameters())
    branch = Branch(model, optimizer, clip_norm=1.0)
    batches = make_batches("mlp")
    plain_step(model, optimizer, batches[0])
    snapshot = Snapshot(branch)
    ends = []
    for _ in range(2):
        for batch in batches[1:3]:
            plain_step(model, optimizer, batch)
        state = {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()}
        ends.append(copy.deepcopy(state))
        snapshot.restore(branch)
    assert differing(ends[0], ends[1]) == []
