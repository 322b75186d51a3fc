"""What a GPU would need, as far as it can be told without one."""

import copy
from typing import Any

import pytest
import torch

from esper_async.kasmina import random_state
from esper_async.kasmina.random_state import RandomStream, fresh_stream
from esper_async.kasmina.seed_state import restore_seed, saved_seed, seed_state
from esper_async.kasmina.snapshot import nested_tensors
from tests.kasmina.plots import Plot


@pytest.mark.filterwarnings("ignore:for .*a meta parameter")
def test_what_a_restored_seed_uses_beside_its_kernel_lies_where_the_kernel_does() -> None:
    plot = Plot("conv2d")
    (seed,) = plot.plant("BP015")
    for index in range(2):
        plot.step(index)
    graft = copy.deepcopy(seed.graft).to("meta")
    saved = saved_seed(seed_state(seed))
    restored = restore_seed(
        saved, plot.executor.sites, lambda _: graft, host_optimizer=plot.optimizer
    )
    assert restored.buffers.keys() == seed.buffers.keys()
    beside = dict(nested_tensors([restored.buffers, restored.gradients.state_dict()]))
    assert {tensor.device.type for tensor in beside.values()} == {"meta"}


def test_a_gpus_random_numbers_hang_on_the_streams_state_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu: dict[str, Any] = {"state": torch.tensor([7])}
    seeds: list[int] = []
    monkeypatch.setattr(random_state, "_initialised", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: gpu["state"])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state: gpu.update(state=state))
    monkeypatch.setattr(torch.cuda, "manual_seed", seeds.append)

    stream = RandomStream(fresh_stream("a test"))
    with stream.active():
        gpu["state"] = torch.tensor([9])  # somebody draws
    assert int(gpu["state"]) == 7
    saved = stream.state.clone()
    for each in (stream, RandomStream(saved)):
        with each.active():
            pass
    assert len(set(seeds)) == 2
    assert seeds[1] == seeds[2]
