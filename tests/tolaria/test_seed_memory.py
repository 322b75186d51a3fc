"""Germinations are bounded by growth's share of memory: what is offered, and what is done."""

from pathlib import Path
from typing import Any

import pytest
import torch

from esper_async import Grower
from esper_async.kasmina.legal import LegalPair, MemoryStore
from esper_async.kasmina.planting import CommandRefusedError
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.seed_memory import SeedMemory
from esper_async.tamiyo.command import Germinate
from esper_async.tolaria.seeds_view import ViewMaker
from tests.kasmina.test_culling import OPTIMIZERS
from tests.tolaria.growth_tasks import BLUEPRINTS, QUICK, listed

PLENTY = 10**9
PROVED = MemoryStore()
"""Certificates, which the tests prove once for all of them."""


def prepared(optimizer: str = "adamw", steps: int = 1) -> Grower:
    """Return a grower whose host has been trained for some steps."""
    task: Any = listed()
    grower = Grower(
        task.model,
        OPTIMIZERS[optimizer](task.model.parameters()),
        loss=task.loss,
        growth=QUICK,
        blueprints=BLUEPRINTS,
        certificates=PROVED,
    )
    grower.prepare(task.train_loader[0])
    for inputs, targets in task.train_loader[:steps]:
        with grower.step((inputs, targets)):
            grower.optimizer.zero_grad()
            task.loss(task.model(inputs), targets).backward()
            grower.optimizer.step()
    set_budget(grower, PLENTY)
    return grower


def set_budget(grower: Grower, size: int) -> None:
    assert grower.executor is not None
    grower.executor.twin_budget_bytes = size


def memory_of(grower: Grower) -> SeedMemory:
    assert grower.executor is not None
    return SeedMemory(grower.executor, 16)


def plant(grower: Grower, count: int = 1) -> None:
    pair = wide(grower)
    grower.carry_out(Germinate((Candidate(pair.site.name, pair.blueprint),) * count))


def wide(grower: Grower) -> LegalPair:
    """Return the place and the kernel with the most parameters."""
    return max(grower.legal, key=lambda pair: pair.parameters)


def buffers_of(grower: Grower) -> int:
    return sum(b.numel() * b.element_size() for b in grower.model.buffers())


@pytest.mark.parametrize(
    ("optimizer", "share"),
    [("sgd", 1.0), ("adam", 2.0), ("adamw", 2.0), ("rmsprop", 1.0), ("adagrad", 1.0)],
)
def test_a_seed_needs_its_weights_gradients_state_activations_and_the_hosts_buffers(
    optimizer: str, share: float
) -> None:
    grower = prepared(optimizer)
    pair = wide(grower)
    expected = 4 * pair.parameters * (2.0 + share) + 16 * pair.saved_bytes + buffers_of(grower)
    assert pair.saved_bytes > 0
    assert memory_of(grower).needed(pair) == pytest.approx(expected, rel=0.05)


def test_before_the_host_has_optimizer_state_it_is_taken_to_be_adams() -> None:
    grower = prepared("sgd", steps=0)
    pair = wide(grower)
    expected = 16 * pair.parameters + 16 * pair.saved_bytes + buffers_of(grower)
    assert memory_of(grower).needed(pair) == expected


def test_what_does_not_fit_is_refused_with_numbers_and_nothing_is_planted() -> None:
    grower = prepared()
    needed = memory_of(grower).needed(wide(grower))
    set_budget(grower, 2 * needed - 1)
    with pytest.raises(CommandRefusedError, match=r"2 candidates need 0\.\d MB .* taken"):
        plant(grower, 2)
    assert grower.executor is not None
    assert not grower.executor.seeds
    plant(grower)
    assert 0 < memory_of(grower).taken() < needed
    set_budget(grower, memory_of(grower).taken() + needed - 1)
    with pytest.raises(CommandRefusedError, match="growth may take"):
        plant(grower)


def test_a_policy_is_offered_what_fits_and_as_many_as_do() -> None:
    grower = prepared()

    def seen() -> tuple[int, int]:
        assert grower.executor is not None
        view = ViewMaker(grower.legal).view(
            grower.executor, [], batch_size=16, boundary=1, last_boundary=None
        )
        return len(view.placements), view.free_candidates

    sizes = sorted(memory_of(grower).needed(pair) for pair in grower.legal)
    assert seen() == (len(sizes), 8)
    set_budget(grower, 2 * sizes[-1])
    assert seen() == (len(sizes), 2)
    set_budget(grower, sizes[0])
    assert seen() == (sizes.count(sizes[0]), 1)
    set_budget(grower, 0)
    assert seen() == (0, 0)


def test_the_size_of_a_batch_and_what_kernels_keep_are_saved(tmp_path: Path) -> None:
    grower = prepared()
    torch.save(grower.state_dict(), tmp_path / "state.pt")
    other = prepared(steps=0)
    other.ungrow()
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert other.legal == grower.legal
    assert memory_of(other).needed(wide(other)) == memory_of(grower).needed(wide(grower))
    assert other.state_dict()["batch_size"] == 16
