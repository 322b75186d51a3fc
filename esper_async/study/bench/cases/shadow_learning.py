"""Has a kernel learned something true by the end of TRAINING? Switched on, against the host alone.

The kernel is one known to help at its site, on MNIST-1D; what it would cause is measured on the
decision split before it has touched the host.
"""

from typing import Any

import torch
from torch import Tensor

from esper_async.kasmina import shadow_training
from esper_async.kasmina.call import Call
from esper_async.kasmina.evaluation import Loss
from esper_async.kasmina.kernels.graft import Graft
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate, Seed
from esper_async.kasmina.shadow import shadow_step
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
)
from esper_async.study.bench.planting import PlantOnce
from esper_async.tasks.mnist1d import make_task
from esper_async.tolaria.grow import grow

SITE, BLUEPRINT = "stem.1", "BP009"
PLANTED_AT, STEPS_A_BOUNDARY = 4, 32
HARM_MARGIN = 0.02
LEAST_GAIN = 0.05
_SEEDS = {Effort.SHORT: (0,), Effort.FULL: tuple(range(5))}


def measure(effort: Effort) -> list[Row]:
    """Grow one seed through TRAINING for each run seed, and read what it would contribute."""
    rows = []
    for seed in _SEEDS[effort]:
        contribution, host_loss = _contribution(seed)
        mean, low, high = (contribution[key] for key in ("mean", "low", "high"))
        rows += [
            judged(
                f"seed {seed}: shadow loss above the host's",
                -mean,
                "nats",
                Bar("at most", HARM_MARGIN),
                interval=(-high, -low),
                note=f"host {host_loss:.3f} nats",
            ),
            judged(
                f"seed {seed}: clean contribution", mean, "nats", Bar("at least", LEAST_GAIN),
                interval=(low, high),
            ),
        ]  # fmt: skip
    return rows


def _contribution(seed: int) -> tuple[dict[str, float], float]:
    dwell_boundaries = -(-GrowthOptions().dwell_steps // STEPS_A_BOUNDARY)
    result = grow(
        make_task(seed=seed, schedule="constant"),
        epochs=PLANTED_AT + dwell_boundaries,
        policy=PlantOnce(Candidate(SITE, BLUEPRINT), boundary=PLANTED_AT),
        seed=seed,
        blueprints=[BLUEPRINT],
        growth={"g2_margin": -1e9, "parameter_budget": 100.0},
        progress=False,
        threads=1,
    )
    (record,) = result.seeds
    contribution: dict[str, float] | None = record["clean_contribution"]
    if contribution is None:
        raise RuntimeError(f"the seed was not judged: {record}")
    return contribution, float(result.history[-1]["validation_loss"])


def _straight_through_step(call: Call, seed: Seed, batch: Any, loss: Loss, **how: Any) -> Tensor:
    def forward(graft: Graft, activation: Tensor, **given: bool) -> Tensor:
        change = _whole_forward(graft, activation, **given) - activation
        return activation + (change - change.detach())

    with replaced("esper_async.kasmina.kernels.graft.Graft.forward", forward):
        return shadow_step(call, seed, batch, loss, **how)


_whole_forward = Graft.forward


def _absent(graft: Graft, activation: Tensor, **given: bool) -> Tensor:
    return activation + 0.0 * _whole_forward(graft, activation, **given)


def _learns_nothing(call: Call, seed: Seed, batch: Any, loss: Loss, **how: Any) -> Tensor:
    seed.gradients.note(torch.ones(1))
    return torch.zeros(())


BENCHMARK = Benchmark(
    name="shadow-learning",
    question="at the end of TRAINING, is the kernel better than nothing?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "straight-through kernel",
            "trained by gradients of a loss that never felt it",
            lambda: replaced(f"{shadow_training.__name__}.shadow_step", _straight_through_step),
            fails=("*: shadow loss above the host's", "*: clean contribution"),
        ),
        Mutant(
            "kernel never enters the forward",
            "the graft hands the host's own activation on",
            lambda: replaced("esper_async.kasmina.kernels.graft.Graft.forward", _absent),
            fails=("*: clean contribution",),
        ),
        Mutant(
            "kernel does not train",
            "shadow passes are counted and change nothing",
            lambda: replaced(f"{shadow_training.__name__}.shadow_step", _learns_nothing),
            fails=("*: clean contribution",),
        ),
    ),
)
