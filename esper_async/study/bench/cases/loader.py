"""Is the in-memory loader worth its file? Against torch's own `DataLoader`."""

from collections.abc import Iterable
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    replaced,
)
from esper_async.study.bench.interleave import interleaved
from esper_async.tasks.seeding import permutation
from esper_async.tasks.tensor_loader import TensorLoader

SAMPLES, BATCH = 2000, 64
_ROUNDS = {Effort.SHORT: 15, Effort.FULL: 60}


def measure(effort: Effort) -> list[Row]:
    """Time an epoch of each, shuffled, and check that nothing is lost or repeated."""
    inputs, targets = torch.randn(SAMPLES, 1, 28, 28), torch.arange(SAMPLES)
    ours = TensorLoader(inputs, targets, batch_size=BATCH, seed=0)
    theirs = DataLoader(TensorDataset(inputs, targets), batch_size=BATCH, shuffle=True)
    rounds = interleaved(lambda: _exhaust(theirs), lambda: _exhaust(ours), rounds=_ROUNDS[effort])
    compared = rounds.compare("cpu_s")
    rows = [
        judged(
            "epoch, thread CPU time",
            1e3 * compared.value_s,
            "ms",
            Bar("at most", 0.5),
            baseline=1e3 * compared.baseline_s,
            ratio=compared.ratio.value,
            interval=(compared.ratio.low, compared.ratio.high),
        )
    ]
    seen = torch.cat([target for _, target in ours])
    rows.append(
        judged(
            "distinct samples an epoch",
            float(len(set(seen.tolist()))),
            "",
            Bar("at least", SAMPLES),
        )
    )
    first, second = (torch.cat([target for _, target in ours]) for _ in range(2))
    moved = float((first != second).double().mean()) if len(first) == len(second) else 0.0
    rows.append(judged("samples elsewhere next epoch", moved, "", Bar("at least", 0.9)))
    return rows


def _exhaust(loader: Iterable[Any]) -> None:
    for _ in loader:
        pass


BENCHMARK = Benchmark(
    name="loader",
    question="what does a batch cost, against torch's DataLoader?",
    timed=False,
    measure=measure,
    mutants=(
        Mutant(
            "the same order every epoch",
            "the epoch does not enter the order's seed",
            lambda: replaced("esper_async.tasks.tensor_loader.derive_seed", lambda seed, _: seed),
            fails=("samples elsewhere next epoch",),
        ),
        Mutant(
            "drops the last batch",
            "counts whole batches only",
            lambda: replaced(
                "esper_async.tasks.tensor_loader.TensorLoader.__len__",
                lambda self: len(self.inputs) // self.batch_size,
            ),
            fails=("distinct samples an epoch",),
        ),
        Mutant(
            "sample by sample",
            "gathers and stacks samples one at a time, as a general collate does",
            lambda: replaced("esper_async.tasks.tensor_loader.TensorLoader.__iter__", _slowly),
            fails=("epoch, thread CPU time",),
        ),
    ),
)


def _slowly(loader: TensorLoader) -> Any:
    assert loader.seed is not None
    order = permutation(len(loader.inputs), loader.seed).tolist()
    for start in range(0, len(order), loader.batch_size):
        chosen = order[start : start + loader.batch_size]
        yield (
            torch.stack([loader.inputs[index].clone() for index in chosen]),
            torch.stack([loader.targets[index].clone() for index in chosen]),
        )
