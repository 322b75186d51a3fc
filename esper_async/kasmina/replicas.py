"""The replicas of a run: what every rank holds alike, and how it is kept or proved to be so.

Weights and optimizer states are the same because every rank learns from the same gradients. Two
things are not: buffers follow each rank's own batches from one forward pass to the next, and random
streams that were the same would draw the same dropout for every rank. At a boundary all take rank
0's buffers, and derive their streams from rank 0's; so a state that rank 0 saves there is the whole
run's.
"""

import hashlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from esper_async.kasmina.averaging import WeightAverage
from esper_async.kasmina.branch import Branch
from esper_async.kasmina.executor import Executor
from esper_async.kasmina.random_state import RandomStream, fresh_stream
from esper_async.kasmina.ranks import Form, Ranks, json_form
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.shadow import follow_topology
from esper_async.kasmina.stage import Stage

_COUNTS: Form[dict[str, Any]] = json_form(dict, dict)
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_REMEDY = (
    "Every process has to load the same state and make the same calls, and every forward pass of "
    "training has to go through grower.trained_model"
)


def align(ranks: Ranks, branch: Branch, executor: Executor | None) -> None:
    """Prove that the replicas hold the same seeds and weights; give them rank 0's buffers, counts.

    Raises:
        RanksDifferError: they do not.
    """
    seeds = {} if executor is None else executor.seeds
    facts = {
        f"seed {seed.id}": f"{seed.candidate.blueprint} at {seed.site.name} in {seed.stage.name}"
        for seed in seeds.values()
    }
    weights = dict(_weights(branch, executor))
    sums = torch.stack([_checksum(tensor) for tensor in weights.values()]).tolist()
    facts |= {name: f"checksum {total:x}" for name, total in zip(weights, sums, strict=True)}
    ranks.must_agree(facts, _REMEDY)
    ranks.broadcast(list(_buffers(branch, executor)))
    if executor is not None:  # rank 0 alone measures candidates, and counts what that costs
        compute = executor.compute
        compute.load_state_dict(ranks.from_first(compute.state_dict, _COUNTS))


def spread_streams(ranks: Ranks, executor: Executor | None) -> None:
    """Give every rank streams of its own, derived from those of rank 0, which go on as they are."""
    streams = [] if executor is None else list(_streams(executor))
    states = [stream.state.clone() for stream in streams]
    ranks.broadcast(states)
    if ranks.rank != 0:
        for stream, state in zip(streams, states, strict=True):
            digest = hashlib.sha256(state.numpy().tobytes()).hexdigest()
            stream.state = fresh_stream(digest, "rank", ranks.rank)


def _training(executor: Executor | None) -> list[Seed]:
    return [] if executor is None else executor.in_stage(Stage.TRAINING)


def _weights(branch: Branch, executor: Executor | None) -> Iterator[tuple[str, Tensor]]:
    yield from branch.model.named_parameters()
    if executor is not None and executor.trial is not None and executor.trial.has_twin:
        for name, parameter in executor.trial.twin.model.named_parameters():
            yield f"the twin's {name}", parameter
    for seed in _training(executor):
        for name, parameter in seed.graft.named_parameters():
            yield f"seed {seed.id}'s {name}", parameter


def _checksum(tensor: Tensor) -> Tensor:
    """Return the sum () of a tensor's bits, read as whole numbers."""
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor)
    return tensor.detach().view(_BITS[tensor.element_size()]).sum(dtype=torch.int64)


def _buffers(branch: Branch, executor: Executor | None) -> Iterator[Tensor]:
    yield from branch.model.buffers()
    for seed in _training(executor):
        follow_topology(branch.model, seed)
        yield from seed.buffers.values()
        yield from seed.graft.buffers()
    trial = None if executor is None else executor.trial
    if trial is None:
        return
    yield from _averaged_buffers(trial.average, branch)
    if trial.has_twin:
        yield from trial.twin.model.buffers()
        yield from _averaged_buffers(trial.twin_average, trial.twin)


def _averaged_buffers(average: WeightAverage | None, branch: Branch) -> Iterator[Tensor]:
    averaged = {} if average is None else average.tensors()
    for name, _ in branch.model.named_buffers():
        if name in averaged:
            yield averaged[name]


def _streams(executor: Executor) -> Iterator[RandomStream]:
    for seed in _training(executor):
        if seed.stream is not None:
            yield seed.stream
    if executor.trial is not None:
        yield executor.trial.stream
