"""Are the gradients in BLENDING those of the plain composition? Against autograd on code by hand.

A seed is grown into its ramp on the true path; the reference is a copy without any of Esper's
hooks, whose site computes the blend in one written-out line.
"""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from esper_async.kasmina.kernels.graft import Graft, GraftHook, grafts_of
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.stage import Stage
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
)
from esper_async.study.bench.hosts import HOSTS, batches
from esper_async.study.bench.planting import PlantOnce
from esper_async.tamiyo.command import Germinate
from esper_async.tolaria.grower import Grower

KERNELS = {
    "conv host": ("BP009", "BP014", "BP020"),
    "transformer host": ("BP021", "BP014"),
    "dense host": ("BP002", "BP014"),
}
TOLERANCE = 1e-9


def measure(effort: Effort) -> list[Row]:
    """Compare every gradient, of host and kernel, in float64."""
    rows = []
    for name, host in HOSTS.items():
        for blueprint in KERNELS[name]:
            model = _in_blending(host, blueprint)
            difference = math.inf if model is None else _largest_difference(model)
            note = "it never reached BLENDING" if model is None else _describe(model)
            bar = Bar("at most", TOLERANCE)
            rows.append(judged(f"{name}, {blueprint}", difference, "", bar, note=note))
    return rows


def _describe(model: nn.Module) -> str:
    (graft,) = grafts_of(model).values()
    return f"largest relative difference; {graft.mode} blend, alpha {float(graft.alpha):.2f}"


def _in_blending(host: type[nn.Module], blueprint: str) -> nn.Module | None:
    """Return a host with a trained seed half-way up its ramp; None if the seed was culled."""
    torch.manual_seed(0)
    model = host()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    grower = Grower(
        model,
        optimizer,
        state_dir=None,
        loss=nn.functional.cross_entropy,
        policy=PlantOnce(boundary=0),
        growth=GrowthOptions(
            shadow_every=1,
            dwell_steps=10,
            warmup_steps=1,
            g2_margin=-1e9,
            parameter_budget=1000.0,
            ramp_boundaries=2,
        ),
        blueprints=[blueprint],
    )
    data = batches(15)
    grower.prepare(data[0])
    pair = grower.legal[0]
    grower.carry_out(Germinate((Candidate(pair.site.name, pair.blueprint, pair.blend),)))
    assert grower.executor is not None
    (seed,) = grower.executor.seeds.values()
    for _ in range(8):
        for batch in data:
            with grower.step(batch):
                _train(model, optimizer, batch)
            if seed.stage is Stage.BLENDING and 0.2 < seed.alpha < 0.8:
                return copy.deepcopy(model).double().eval()
        grower.boundary(data[:2])
    return None


def _train(model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Any, Any]) -> None:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()  # type: ignore[no-untyped-call]
    optimizer.step()


def _largest_difference(model: nn.Module) -> float:
    """Return the largest |g - g'| / |g'| over all tensors; infinite where g is missing."""
    plain = _composed_by_hand(copy.deepcopy(model))
    worst = 0.0
    ours, theirs = _gradients(model), _gradients(plain)
    for name, expected in theirs.items():
        gradient = ours.get(name)
        if gradient is None:
            return math.inf
        scale = max(float(expected.norm()), 1e-12)
        worst = max(worst, float((gradient - expected).norm()) / scale)
    return worst


def _gradients(model: nn.Module) -> dict[str, Tensor]:
    inputs, targets = batches(1, seed=9)[0]
    model.zero_grad()
    nn.functional.cross_entropy(model(inputs.double()), targets).backward()  # type: ignore[no-untyped-call]
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


def _composed_by_hand(model: nn.Module) -> nn.Module:
    for path, graft in grafts_of(model).items():
        site = model.get_submodule(path.rpartition(".")[0])
        for key, hook in list(site._forward_hooks.items()):
            if isinstance(hook, GraftHook):
                del site._forward_hooks[key]
        site.forward = _blend(site.forward, graft)
    return model


def _blend(original: Callable[[Tensor], Tensor], graft: Graft) -> Callable[[Tensor], Tensor]:
    kernel, alpha = graft.kernel, float(graft.alpha)
    keep = 1.0 if graft.mode == "residual" else 1.0 - alpha

    def forward(inputs: Tensor) -> Tensor:
        host = original(inputs)
        blended: Tensor = keep * host + alpha * kernel(host)
        return blended

    return forward


def _detached(graft: Graft, activation: Tensor, *, fully_on: bool = False) -> Tensor:
    kept = 1.0 if graft.mode == "residual" else 1.0 - graft.alpha
    blended: Tensor = kept * activation + graft.alpha * graft.kernel(activation.detach())
    return blended


def _straight_through(graft: Graft, activation: Tensor, *, fully_on: bool = False) -> Tensor:
    change: Tensor = graft.alpha * graft.kernel(activation)
    return activation + (change - change.detach())


def _absent(graft: Graft, activation: Tensor, *, fully_on: bool = False) -> Tensor:
    absent: Tensor = activation + 0.0 * graft.kernel(activation)
    return absent


BENCHMARK = Benchmark(
    name="blending",
    question="are gradients in BLENDING those of the plain composition?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "detached blend",
            "the kernel's input is cut off from what is upstream of it",
            lambda: replaced("esper_async.kasmina.kernels.graft.Graft.forward", _detached),
            fails=("*",),
        ),
        Mutant(
            "straight-through kernel",
            "the kernel gets a gradient without a part in the forward pass",
            lambda: replaced("esper_async.kasmina.kernels.graft.Graft.forward", _straight_through),
            fails=("*",),
        ),
        Mutant(
            "kernel never enters the forward",
            "the graft hands the host's own activation on",
            lambda: replaced("esper_async.kasmina.kernels.graft.Graft.forward", _absent),
            fails=("*",),
        ),
    ),
)
