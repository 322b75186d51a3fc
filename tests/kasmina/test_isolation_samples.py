"""Isolation is looked at while a run trains: who touches the host three times in a row must go."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_async.kasmina.isolation import IN_A_ROW, VIOLATIONS, fingerprint, traces
from esper_async.kasmina.planting import CommandRefusedError
from esper_async.kasmina.seed import Candidate, Seed
from esper_async.kasmina.stage import Stage
from tests.growth_hosts import CASES, Kind, differing
from tests.kasmina.plots import Plot


class Trespasser(nn.Module):
    """A kernel that changes nothing in the forward pass, and does something to its host there."""

    output = "change"

    def __init__(self, deed: Callable[[], object]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(()))
        self.deed = deed

    def forward(self, h: Tensor) -> Tensor:
        self.deed()
        return self.scale * h


def trespassing(plot: Plot, seed: Seed, deed: Callable[[], object]) -> None:
    seed.graft.kernel = Trespasser(deed)
    seed.optimizer = None


def held(plot: Plot, name: str) -> Tensor:
    """Return the host's own tensor: within a shadow pass others stand in its place."""
    return dict([*plot.model.named_buffers(), *plot.model.named_parameters()])[name]


DEEDS: dict[str, tuple[str, Callable[[Plot, Tensor], object]]] = {
    "the buffer body.1.running_mean": (
        "body.1.running_mean",
        lambda plot, tensor: tensor.add_(1e-3),
    ),
    "the parameter head.weight": ("head.weight", lambda plot, tensor: tensor.detach().mul_(1.0)),
    "the gradient of head.weight": ("head.weight", lambda plot, tensor: tensor.grad.zero_()),
    "the gradient of head.bias": ("head.bias", lambda plot, tensor: setattr(tensor, "grad", None)),
    "the mode of body.3": ("head.weight", lambda plot, tensor: plot.model.body[3].eval()),
}


@pytest.mark.parametrize("trace", DEEDS)
def test_three_passes_in_a_row_that_touch_the_host_quarantine_the_seed(trace: str) -> None:
    name, deed = DEEDS[trace]
    plot = Plot("mlp", dwell_steps=1000)
    bad, good = plot.plant("BP014", "BP021")
    victim = held(plot, name)
    mode = iter(range(1000))

    def act() -> None:
        plot.model.get_submodule("body.3").train(next(mode) % 2 == 1)
        deed(plot, victim)

    trespassing(plot, bad, act if trace.startswith("the mode") else lambda: deed(plot, victim))
    for index in range(IN_A_ROW - 1):
        plot.step(index)
        plot.model.train()
    assert bad.stage is Stage.TRAINING
    plot.step(5)

    assert (bad.stage, good.stage) == (Stage.CULLED, Stage.TRAINING)
    gate = bad.gates[-1]
    assert (gate.name, gate.passed) == ("G2", False)
    assert gate.numbers[VIOLATIONS] == IN_A_ROW
    assert gate.reason.startswith("quarantined")
    assert trace in gate.reason
    assert plot.executor.take_violations() == IN_A_ROW
    assert plot.executor.take_violations() == 0


def test_random_numbers_of_the_hosts_stream_count_as_a_trace() -> None:
    plot = Plot("mlp")
    before = fingerprint(plot.model)
    torch.rand(1)
    assert traces(before, fingerprint(plot.model)) == ["torch's random numbers"]


def test_a_tensor_put_in_anothers_place_counts_as_a_trace() -> None:
    plot = Plot("mlp")
    head = plot.model.get_submodule("head")
    before = fingerprint(plot.model)
    head.weight.data = head.weight.data.clone()
    head.bias = nn.Parameter(head.bias.detach())
    plot.model.register_buffer("extra", torch.zeros(1))
    found = traces(before, fingerprint(plot.model))
    assert found == ["the parameter head.weight", "the parameter head.bias", "the buffer extra"]


def test_a_quarantined_blueprint_is_refused_for_the_rest_of_the_run_at_every_site() -> None:
    sites = {"here": "body", "early": "body.2"}
    plot = Plot("mlp", sites=sites, dwell_steps=1000)
    (bad,) = plot.plant("BP014")
    victim = held(plot, "body.1.running_mean")
    trespassing(plot, bad, lambda: victim.add_(1.0))
    for index in range(IN_A_ROW):
        plot.step(index)
    before = copy.deepcopy(plot.executor.state_dict())
    with pytest.raises(CommandRefusedError, match=r"BP014 is quarantined in this run"):
        plot.executor.germinate([Candidate("early", "BP021"), Candidate("early", "BP014")])
    assert differing(before, plot.executor.state_dict()) == []
    plot.plant("BP021", site="early")

    other = Plot("mlp", sites=sites)
    other.executor.load_state_dict(copy.deepcopy(plot.executor.state_dict()))
    assert other.executor.take_violations() == IN_A_ROW
    with pytest.raises(CommandRefusedError, match="quarantined"):
        other.plant("BP014", site="early")


def test_a_trace_that_is_not_found_again_is_counted_and_forgiven() -> None:
    plot = Plot("mlp", dwell_steps=1000)
    (seed,) = plot.plant("BP014")
    victim = held(plot, "body.1.running_mean")
    calls: list[int] = []

    def every_third() -> None:
        calls.append(1)
        if len(calls) % 3:
            victim.add_(1e-3)

    trespassing(plot, seed, every_third)
    for index in range(9):
        plot.step(index)
    assert seed.stage is Stage.TRAINING
    assert plot.executor.take_violations() > 0


def test_a_seed_is_looked_at_on_its_first_pass_then_rarely_and_closely_once_suspected() -> None:
    plot = Plot("mlp", dwell_steps=1000, isolation_every=5)
    (seed,) = plot.plant("BP014")
    victim = held(plot, "body.1.running_mean")
    guilty_at: set[int] = {1, 2, 7}
    passes: list[int] = []

    def sometimes() -> None:
        passes.append(1)
        if len(passes) - 1 in guilty_at:
            victim.add_(1e-3)

    trespassing(plot, seed, sometimes)
    for index in range(5):
        plot.step(index)
    assert plot.executor.violations == 0  # passes 1 and 2 were not looked at
    guilty_at |= {5, 6}
    for index in range(5, 8):
        plot.step(index)
    assert plot.executor.violations == IN_A_ROW  # 5 by the calendar, 6 and 7 on suspicion
    assert seed.stage is Stage.CULLED


def test_what_is_suspected_survives_a_save() -> None:
    plot = Plot("mlp", dwell_steps=1000, isolation_every=50)
    (seed,) = plot.plant("BP014")
    for index in range(3):
        plot.step(index)
    seed.violations = 2
    other = Plot("mlp")
    other.executor.load_state_dict(copy.deepcopy(plot.executor.state_dict()))
    again = other.executor.seeds["s1"]
    assert (again.shadow_passes, again.violations) == (3, 2)


@pytest.mark.parametrize(
    ("kind", "blueprint"),
    [(kind, blueprint) for kind, case in CASES.items() for blueprint in case.blueprints],
)
def test_a_good_seed_never_leaves_a_trace(kind: Kind, blueprint: str) -> None:
    plot = Plot(kind, isolation_every=1, dwell_steps=1000)
    (seed,) = plot.plant(blueprint)
    for index in range(12):
        plot.step(index)
    assert seed.shadow_passes == 12
    assert plot.executor.take_violations() == 0


def test_a_paused_seed_is_not_looked_at() -> None:
    plot = Plot("mlp", isolation_every=1, dwell_steps=1000)
    (seed,) = plot.plant("BP014")
    plot.executor.hold(seed, paused=True)
    plot.step(0)
    assert seed.shadow_passes == 0


def test_gradients_without_a_storage_of_their_own_can_be_looked_at() -> None:
    model = nn.Embedding(4, 2, sparse=True)
    model(torch.tensor([1])).sum().backward()
    with torch.inference_mode():
        model.register_buffer("made_elsewhere", torch.zeros(2))
    before: Any = fingerprint(model)
    assert traces(before, fingerprint(model)) == []
