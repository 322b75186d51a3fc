"""What is different on a GPU: transfers, random states, half precision, saved states. Needs one."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from esper_async.kasmina.random_state import RandomStream, fresh_stream
from esper_async.kasmina.snapshot import nested_tensors
from esper_async.tolaria.control import Steer
from esper_async.tolaria.task import Task
from tests.growth_hosts import Kind, differing, make_batches
from tests.tolaria.growth_tasks import listed
from tests.tolaria.test_engine import Script, run, weights

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
    pytest.mark.filterwarnings("ignore:Detected call of `lr_scheduler.step"),
]
ON_A_GPU: dict[str, Any] = {"device": "cuda", "deterministic": True}


def pinned(kind: Kind = "mlp") -> Task:
    """Return a task whose batches come from a worker through pinned memory."""
    batches = make_batches(kind, count=4)
    columns = [torch.cat(column) for column in zip(*batches, strict=True)]
    loader = DataLoader(
        TensorDataset(*columns), batch_size=16, shuffle=True, num_workers=1, pin_memory=True
    )
    return listed(kind, train_loader=loader)


def test_batches_come_to_the_gpu_and_everything_that_grows_is_there() -> None:
    outcome, _ = run(pinned(), epochs=10, **ON_A_GPU)
    assert any(move["to_stage"] == "BLENDING" for move in outcome.transitions)
    assert {tensor.device.type for tensor in weights(outcome).values()} == {"cuda"}


@pytest.mark.parametrize("precision", ["32", "bf16-mixed", "16-mixed"])
@pytest.mark.parametrize("cut", [14, 30])
def test_a_drained_run_goes_on_bitwise(tmp_path: Path, precision: str, cut: int) -> None:
    settings: dict[str, Any] = {**ON_A_GPU, "precision": precision, "epochs": 10}
    whole, _ = run(pinned(), **settings)
    run(pinned(), tmp_path, Script({cut: [Steer("drain")]}), **settings)
    rest, records = run(pinned(), tmp_path, **settings)
    assert [r["bitwise"] for r in records if r["kind"] == "resumed"] == [True]
    assert differing(weights(whole), weights(rest)) == []


def test_a_seed_that_trains_leaves_its_host_as_it_was() -> None:
    growth = {"dwell_steps": 10**6}
    alone, _ = run(listed("conv2d"), policy="static", epochs=4, **ON_A_GPU)
    grown, _ = run(listed("conv2d"), epochs=4, growth=growth, **ON_A_GPU)
    assert grown.grower.executor is not None
    assert grown.grower.executor.planted
    assert differing(weights(alone), weights(grown)) == []


def test_a_saved_seed_is_restored_on_the_gpu_though_its_state_was_read_into_main_memory() -> None:
    whole, _ = run(listed("conv2d"), epochs=6, growth={"dwell_steps": 10**6}, **ON_A_GPU)
    executor = whole.grower.executor
    assert executor is not None
    saved = in_main_memory(copy.deepcopy(whole.grower.state_dict()))
    whole.grower.ungrow()
    whole.grower.load_state_dict(saved)
    assert whole.grower.executor is not None
    for seed in whole.grower.executor.seeds.values():
        if not seed.ended:
            found = dict(nested_tensors([seed.buffers, seed.gradients.state_dict()]))
            assert {tensor.device.type for tensor in found.values()} == {"cuda"}


def in_main_memory(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.cpu()
    if isinstance(value, dict):
        return {key: in_main_memory(item) for key, item in value.items()}
    if isinstance(value, list):
        return [in_main_memory(item) for item in value]
    return value


def test_a_stream_of_random_numbers_is_the_same_on_the_gpu_for_the_same_state() -> None:
    torch.zeros((), device="cuda")
    torch.cuda.manual_seed(1)
    outside = torch.cuda.get_rng_state()
    drawn = []
    for _ in range(2):
        with RandomStream(fresh_stream("a test")).active():
            drawn.append(torch.rand(8, device="cuda"))
        assert torch.equal(torch.cuda.get_rng_state(), outside)
        torch.cuda.manual_seed(1)
    assert torch.equal(*drawn)


def test_a_run_of_a_gpu_goes_on_without_one_and_says_that_its_bits_are_others(
    tmp_path: Path,
) -> None:
    run(pinned(), tmp_path, Script({14: [Steer("drain")]}), epochs=6, **ON_A_GPU)
    rest, records = run(pinned(), tmp_path, epochs=6, device="cpu")
    assert [r["bitwise"] for r in records if r["kind"] == "resumed"] == [False]
    assert rest.history[-1]["boundary"] == 6


def test_channels_last_convolutions_grow_in_half_precision() -> None:
    task = listed("conv2d")
    task.model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    outcome, _ = run(task, epochs=10, precision="16-mixed", **ON_A_GPU)
    assert any(move["to_stage"] == "BLENDING" for move in outcome.transitions)
