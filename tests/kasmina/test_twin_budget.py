"""With `twin = "auto"` a trial has a twin while growth's share of the memory has room for one."""

import copy
import os
from typing import Any

import pytest
import torch

from esper_async.kasmina.averaging import WeightAverage
from esper_async.kasmina.memory import growth_budget_bytes, twin_bytes
from tests.growth_hosts import differing
from tests.kasmina.plots import Plot

PLENTY = 10**9


def on_trial(**options: Any) -> Plot:
    plot = Plot("mlp", **options)
    plot.plant("BP021")
    plot.until("BLENDING")
    return plot


def has_twin(plot: Plot) -> bool:
    assert plot.executor.trial is not None
    return plot.executor.trial.has_twin


def told(plot: Plot) -> tuple[str, dict[str, float | None]]:
    gate = plot.executor.seeds["s1"].gates[-1]
    return gate.reason, dict(gate.numbers)


@pytest.mark.parametrize(
    ("twin", "budget", "expected"),
    [("auto", PLENTY, True), ("auto", 1, False), ("on", 1, True), ("off", PLENTY, False)],
)
def test_only_auto_asks_for_the_budget(twin: str, budget: int, expected: bool) -> None:
    assert has_twin(on_trial(twin=twin, twin_budget_bytes=budget)) is expected


def test_the_gate_tells_what_was_decided_and_on_which_numbers() -> None:
    reason, numbers = told(on_trial(twin_budget_bytes=PLENTY))
    needed = numbers["twin_bytes"]
    assert needed is not None
    assert (numbers["twin"], numbers["twin_budget_bytes"]) == (1.0, PLENTY)
    assert "twin" not in reason

    at_the_edge = on_trial(twin_budget_bytes=int(needed))
    assert has_twin(at_the_edge)
    reason, numbers = told(on_trial(twin_budget_bytes=int(needed) - 1))
    assert (numbers["twin"], numbers["twin_bytes"]) == (0.0, needed)
    assert "no twin" in reason


def test_a_twin_needs_its_weights_its_optimizer_state_and_their_average() -> None:
    plot = Plot("mlp")
    before = twin_bytes(plot.branch)
    for index in range(2):
        plot.step(index)
    state = [tensor for each in plot.optimizer.state.values() for tensor in each.values()]
    weights = plot.model.state_dict().values()
    average = WeightAverage(plot.model, 1).tensors().values()

    assert twin_bytes(plot.branch) == bytes_of(weights) + bytes_of(average) + bytes_of(state)
    assert before == bytes_of(weights) + bytes_of(average)


def bytes_of(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def test_without_a_twin_a_trial_is_estimated_and_a_cull_returns_to_the_snapshot() -> None:
    plot = Plot("mlp", twin_budget_bytes=1, max_windows=9, g4_margin=1e9)
    for _ in range(3):
        plot.epoch()
    plot.plant("BP021")
    for index in range(4):
        plot.step(index)
    before = copy.deepcopy(dict(plot.model.state_dict()))
    plot.boundary()
    plot.until("PROBATIONARY")
    seed = plot.executor.seeds["s1"]
    assert seed.benefit_vs_twin is not None
    assert seed.benefit_vs_twin.estimated
    assert plot.executor.compute.twin_steps == 0

    plot.executor.cull("s1", "a test")
    assert differing(before, dict(plot.model.state_dict())) == []


@pytest.mark.parametrize("budget", [1, PLENTY])
def test_a_resumed_trial_repeats_what_was_decided_whatever_the_machine(budget: int) -> None:
    plot = on_trial(twin_budget_bytes=budget, window_boundaries=2)
    plot.step(0)
    saved = copy.deepcopy(plot.executor.state_dict())
    random = torch.get_rng_state()
    other = Plot("mlp", twin_budget_bytes=PLENTY + 1 - budget, window_boundaries=2)
    other.executor.load_state_dict(copy.deepcopy(saved))
    assert has_twin(other) is has_twin(plot)
    for each in (plot, other):
        torch.set_rng_state(random)
        for epoch in range(3):
            each.epoch(4 * epoch)

    assert differing(plot.executor.state_dict(), other.executor.state_dict()) == []
    assert other.executor.twin_budget_bytes == budget, "later trials are decided alike, too"


def test_the_budget_is_growths_share_of_the_machines_memory() -> None:
    physical = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert growth_budget_bytes(torch.device("cpu")) == int(0.05 * physical)
    assert Plot("mlp").executor.twin_budget_bytes == int(0.05 * physical)


def test_a_gpus_own_memory_counts_there(monkeypatch: pytest.MonkeyPatch) -> None:
    class Properties:
        total_memory = 80_000_000_000

    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _device: Properties)
    assert growth_budget_bytes(torch.device("cuda")) == 4_000_000_000
