"""Does a seed in TRAINING leave its host alone? Every loss, gradient, buffer and weight, bitwise.

The host has batch norm and dropout and a clipped gradient norm; conv, attention and dense kernels
train in its shadow at every step.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from esper_async.kasmina import shadow, shadow_training
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate, Seed
from esper_async.kasmina.stand_in import Place
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
)
from esper_async.study.bench.hosts import HOSTS, Batch, batches
from esper_async.study.bench.planting import PlantOnce
from esper_async.tamiyo.command import Germinate
from esper_async.tolaria.grower import Grower

KERNELS = {
    "conv host": ("BP009", "BP020", "BP021"),
    "transformer host": ("BP020", "BP021", "BP031"),
    "dense host": ("BP002", "BP021", "BP009"),
}
_STEPS = {Effort.SHORT: 60, Effort.FULL: 400}


def measure(effort: Effort) -> list[Row]:
    """Train each host twice, with and without seeds in its shadow, and compare at every step."""
    steps = _STEPS[effort]
    rows = []
    for name, host in HOSTS.items():
        alone = _train(host, steps, ())
        shadowed = _train(host, steps, KERNELS[name])
        rows.append(
            judged(
                f"{name}: steps until anything differs",
                float(_first_difference(alone, shadowed)),
                "steps",
                Bar("at least", steps),
                note="bitwise: loss, gradients, buffers, weights, random state",
            )
        )
        learned = min(seed.gradients.steps for seed in shadowed.seeds)
        rows.append(
            judged(f"{name}: shadow steps a seed", float(learned), "steps", Bar("at least", steps))
        )
    return rows


class _Trace:
    """What a host was after each step, and the seeds that trained beside it."""

    def __init__(self) -> None:
        self.steps: list[list[Tensor]] = []
        self.seeds: list[Seed] = []


def _train(host: type[nn.Module], steps: int, kernels: tuple[str, ...]) -> _Trace:
    torch.manual_seed(0)
    model = host()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    grower = Grower(
        model,
        optimizer,
        state_dir=None,
        loss=nn.functional.cross_entropy,
        policy=PlantOnce(boundary=0),
        growth=GrowthOptions(shadow_every=1, parameter_budget=1000.0, dwell_steps=10**6),
        blueprints=list(kernels),
    )
    data = batches(steps)
    grower.prepare(data[0])
    trace = _Trace()
    if kernels:
        trace.seeds = _plant(grower, kernels)
    for batch in data:
        with grower.step(batch):
            loss = _step(model, optimizer, batch)
        trace.steps.append(_state(model, loss))
    return trace


def _plant(grower: Grower, kernels: tuple[str, ...]) -> list[Seed]:
    wanted = [
        Candidate(site=pair.site.name, blueprint=pair.blueprint, blend=pair.blend)
        for pair in grower.legal
        if pair.blueprint in kernels
    ]
    if not wanted:
        raise RuntimeError(f"none of {kernels} is certified at a site of this host")
    grower.carry_out(Germinate(tuple(wanted[: grower.options.max_candidates])))
    assert grower.executor is not None
    return list(grower.executor.seeds.values())


def _step(model: nn.Module, optimizer: torch.optim.Optimizer, batch: Batch) -> Tensor:
    inputs, targets = batch
    optimizer.zero_grad()
    loss = nn.functional.cross_entropy(model(inputs), targets)
    loss.backward()  # type: ignore[no-untyped-call]
    nn.utils.clip_grad_norm_(model.parameters(), 0.5)
    optimizer.step()
    return loss.detach()


def _state(model: nn.Module, loss: Tensor) -> list[Tensor]:
    parts = [loss, torch.get_rng_state()]
    for parameter in model.parameters():
        assert parameter.grad is not None
        parts += [parameter.detach(), parameter.grad]
    return [part.clone() for part in (*parts, *model.buffers())]


def _first_difference(one: _Trace, other: _Trace) -> int:
    for number, (left, right) in enumerate(zip(one.steps, other.steps, strict=True)):
        same = len(left) == len(right) and all(map(torch.equal, left, right))
        if not same:
            return number
    return len(one.steps)


def _with_the_hosts_buffers(model: nn.Module, seed: Seed) -> list[Place]:
    buffers = [id(module._buffers) for module in model.modules()]
    return [place for place in _whole_places(model, seed) if id(place.holder) not in buffers]


def _no_shadow_step(*arguments: object, **options: object) -> Tensor:
    return torch.zeros(())


@contextmanager
def _backward_into_host() -> Iterator[None]:
    def attached(model: nn.Module, seed: Seed) -> list[Place]:
        parameters = [id(module._parameters) for module in model.modules()]
        return [place for place in _whole_places(model, seed) if id(place.holder) not in parameters]

    def add_gradients(parameters: Sequence[nn.Parameter], value: Tensor) -> None:
        value.backward()  # type: ignore[no-untyped-call]

    with (
        replaced(f"{shadow.__name__}.shadow_places", attached),
        replaced(f"{shadow.__name__}.add_gradients", add_gradients),
    ):
        yield


_whole_places = shadow.shadow_places


BENCHMARK = Benchmark(
    name="isolation",
    question="is a host bitwise the same with seeds training in its shadow?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "shared buffers",
            "the shadow pass updates the host's running statistics",
            lambda: replaced(f"{shadow.__name__}.shadow_places", _with_the_hosts_buffers),
            fails=("conv host: steps until*", "dense host: steps until*"),
        ),
        Mutant(
            "shared randomness",
            "the shadow pass draws its dropout from the host's stream",
            lambda: replaced(
                "esper_async.kasmina.random_state.RandomStream.active", lambda _: nullcontext()
            ),
            fails=("*: steps until anything differs",),
        ),
        Mutant(
            "gradients into the host",
            "the shadow's backward pass runs through attached host parameters",
            _backward_into_host,
            fails=("*: steps until anything differs",),
        ),
        Mutant(
            "no shadow pass",
            "seeds are planted and never trained, so that there is nothing to isolate",
            lambda: replaced(f"{shadow_training.__name__}.shadow_step", _no_shadow_step),
            fails=("*: shadow steps a seed",),
        ),
    ),
)
