"""Adversarial kernels that harm the process do so as they say, and can be contained."""

import resource
import sys
from multiprocessing import get_context
from pathlib import Path
from threading import active_count
from typing import Any

import pytest
import torch

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import QUARANTINE, build_kernel
from esper_async.kasmina.kernels.runaway import MemoryLeak
from esper_async.study.bench.adversaries import acts_as_named

FLAT = SiteInterface("feature", (4,))
BEHAVING_FIRST = ("BP046", "BP047", "BP048", "BP049")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("blueprint_id", ["BP046", "BP048"])
def test_what_never_returns_lets_other_threads_tell_of_it_and_can_be_killed(
    blueprint_id: str,
) -> None:
    assert acts_as_named(blueprint_id)


@pytest.mark.parametrize("blueprint_id", BEHAVING_FIRST)
def test_they_behave_for_as_long_as_they_are_told_to_and_always_in_evaluation(
    blueprint_id: str,
) -> None:
    kernel = build_kernel(blueprint_id, FLAT, {"after": 2}, seed=0, drill=True)
    h = torch.randn(3, 4)
    assert all(torch.equal(kernel(h), h) for _ in range(2))
    kernel.eval()
    assert all(torch.equal(kernel(h), h) for _ in range(5))


def test_a_memory_leak_keeps_every_activation_and_more_with_each() -> None:
    kernel = build_kernel("BP047", FLAT, {"after": 1, "mebibytes": 3}, seed=0, drill=True)
    assert isinstance(kernel, MemoryLeak)
    batches = [torch.randn(2, 4) for _ in range(4)]
    for h in batches:
        kernel(h)
    assert sum(tensor.nbytes for tensor in kernel.kept) >= 3 * 3 * 2**20
    for h in batches[1:]:
        assert any(torch.equal(tensor, h) for tensor in kernel.kept)
    assert set(kernel.state_dict()) == {"scale", "passes"}


def _leak_within(mebibytes: int, passes: Any) -> None:
    torch.set_num_threads(1)
    kernel = build_kernel("BP047", FLAT, {"after": 0}, seed=0, drill=True)
    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limit = taken + mebibytes * 2**20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    count = 0
    try:
        while True:
            kernel(torch.ones(1, 4))
            count += 1
    except (MemoryError, RuntimeError):
        kernel.kept.clear()  # type: ignore[union-attr, operator]
        passes.put(count)


@pytest.mark.skipif(sys.platform != "linux", reason="the address space is limited on Linux only")
@pytest.mark.timeout(120)
def test_a_limit_on_the_address_space_contains_a_memory_leak() -> None:
    context = get_context("spawn")
    passes = context.SimpleQueue()
    child = context.Process(target=_leak_within, args=(512, passes))
    child.start()
    child.join()
    assert child.exitcode == 0
    assert 4 <= passes.get() <= 8  # 64 MiB with each


def test_a_race_loses_one_of_two_updates() -> None:
    kernel = build_kernel("BP049", FLAT, {"after": 0, "percent": 10}, seed=0, drill=True)
    h = torch.ones(2, 4)
    threads = active_count()
    kernel(h)
    scale = kernel.state_dict()["scale"]
    grown, shrunk = torch.isclose(scale, torch.tensor(1.1)), torch.isclose(scale, torch.tensor(0.9))
    assert (grown | shrunk).all(), "both updates would have come to 0.99"
    assert active_count() == threads


def test_a_race_changes_the_weights_behind_autograds_back() -> None:
    kernel = build_kernel("BP049", FLAT, {"after": 0, "percent": 50}, seed=0, drill=True)
    h = torch.ones(1, 4, requires_grad=True)
    answer = kernel(h)
    assert torch.equal(answer, h)
    answer.sum().backward()
    assert h.grad is not None
    assert not torch.isclose(h.grad, torch.ones(())).any()


def test_the_quarantine_holds_the_eight_and_what_studies_plant() -> None:
    adversarial = [f"BP{number:03}" for number in range(43, 51)]
    assert sorted(QUARANTINE) == [*adversarial, "PL001", "PL002", "PL003"]
