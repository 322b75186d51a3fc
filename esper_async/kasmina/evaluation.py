"""Losses by sample, and evaluating several variants of a network in one pass over the data."""

import copy
import functools
import inspect
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.call import BatchError, describe, first_batch_size, move
from esper_async.kasmina.probe import Probe, SiteStatistics
from esper_async.kasmina.quantity import PairedBy, Unit
from esper_async.kasmina.random_state import SharedRandomness
from esper_async.kasmina.user_code import batches_of, blaming

Loss = Callable[..., Tensor]
Metric = Callable[[Tensor, Tensor], Tensor]
_IN_NATS = (
    F.cross_entropy,
    F.nll_loss,
    F.binary_cross_entropy,
    F.binary_cross_entropy_with_logits,
)
_MODULES_IN_NATS = (nn.CrossEntropyLoss, nn.NLLLoss, nn.BCELoss, nn.BCEWithLogitsLoss)
Variant = Callable[[Any], tuple[Tensor, Tensor]]


class EmptyLoaderError(ValueError):
    """A loader yielded no batch."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one variant scored on a split: losses (N,) in float64, weights (N,), metric means.

    `values` holds each metric by sample where the metric gives one a sample, else by batch. `unit`
    is that of the losses, `site` what came out of the site that was looked at, if one was.
    `pass_ms` is the median time of a batch's forward pass in milliseconds, None if not timed.
    """

    losses: Tensor
    weights: Tensor
    metrics: Mapping[str, float]
    values: Mapping[str, Tensor]
    paired_by: PairedBy
    unit: Unit = "nats"
    site: SiteStatistics | None = None
    pass_ms: float | None = None

    @property
    def loss(self) -> float:
        """The mean loss by sample."""
        return float((self.losses * self.weights).sum() / self.weights.sum())


class SampleLoss:
    """A loss that can be asked for one value a sample.

    A functional loss with a `reduction` argument and a loss module with a `reduction` attribute
    are paired by sample; any other by batch.
    """

    def __init__(self, loss: Loss) -> None:
        self.mean = loss
        self._unreduced = _without_reduction(loss)

    @property
    def in_nats(self) -> bool:
        """Whether the loss is known to be a cross-entropy, whose values are nats."""
        known: Any = self.mean
        while isinstance(known, functools.partial):
            known = known.func
        return known in _IN_NATS or isinstance(known, _MODULES_IN_NATS)

    @property
    def paired_by(self) -> PairedBy:
        """Whether `each` gives a value a sample or a batch."""
        return "batch" if self._unreduced is None else "sample"

    def each(self, output: Tensor, target: Tensor, batch_size: int) -> tuple[Tensor, float]:
        """Return losses (batch_size,), or (1,), in float64, and the weight of each.

        A loss with several values a sample (a token each, say) is averaged over them, the batch
        being the slowest dimension.
        """
        with blaming("loss"):
            if self._unreduced is None:
                return self.mean(output, target).detach().double().reshape(1), float(batch_size)
            values = self._unreduced(output, target).detach().double()
        if values.numel() % batch_size:
            raise BatchError(
                f"the loss gave {values.numel()} values for a batch of {batch_size} samples"
            )
        return values.reshape(batch_size, -1).mean(dim=1), 1.0


def _without_reduction(loss: Loss) -> Loss | None:
    if isinstance(loss, nn.Module):
        if getattr(loss, "reduction", None) != "mean":
            return None
        unreduced: Any = copy.copy(loss)
        unreduced.reduction = "none"
        return unreduced  # type: ignore[no-any-return]
    try:
        accepts = "reduction" in inspect.signature(loss).parameters
    except (TypeError, ValueError):
        return None
    return (lambda *pair: loss(*pair, reduction="none")) if accepts else None


class _Tally:
    """Losses and metrics of one variant as batches come in."""

    def __init__(self, loss: SampleLoss, metrics: Mapping[str, Metric]) -> None:
        self._loss = loss
        self._metrics = metrics
        self._losses: list[Tensor] = []
        self._weights: list[Tensor] = []
        self._sums = dict.fromkeys(metrics, 0.0)
        self._values: dict[str, list[Tensor]] = {name: [] for name in metrics}
        self._count = 0
        self.passes_ms: list[float] = []

    def add(self, output: Tensor, target: Tensor, batch_size: int) -> None:
        losses, weight = self._loss.each(output, target, batch_size)
        self._losses.append(losses)
        self._weights.append(torch.full_like(losses, weight))
        self._count += batch_size
        for name, metric in self._metrics.items():
            with blaming(f"metrics[{name!r}]"):
                value = _as_tensor(metric(output, target)).double()
            self._sums[name] += float(value.mean()) * batch_size
            self._values[name].append(value.reshape(-1))

    def result(self, variant: Variant) -> Evaluation:
        return Evaluation(
            torch.cat(self._losses).cpu(),
            torch.cat(self._weights).cpu(),
            {name: total / self._count for name, total in self._sums.items()},
            {name: torch.cat(values).cpu() for name, values in self._values.items()},
            self._loss.paired_by,
            "nats" if self._loss.in_nats else "loss",
            variant.statistics() if isinstance(variant, Probe) else None,
            statistics.median(self.passes_ms) if self.passes_ms else None,
        )


def _as_tensor(value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise TypeError(f"it returned {describe(value)}, which is no number") from error


def evaluate(
    variants: Mapping[str, Variant],
    loader: Iterable[Any],
    loss: SampleLoss,
    *,
    metrics: Mapping[str, Metric] | None = None,
    device: torch.device | None = None,
    split: str = "validation",
    timed: bool = False,
) -> dict[str, Evaluation]:
    """Run every variant on every batch and return what each scored, under the variant's name.

    The loader is iterated once, whatever the number of variants. No gradient is recorded; modes
    are the variants' own business. Every variant draws the same random numbers on a batch, and
    the global stream goes on as if the first alone had been run. `split` is the data's name in
    messages. Where passes are `timed`, a GPU is waited for before and after each.

    Raises:
        EmptyLoaderError: the loader yields nothing.
        BatchError: it yields what is no batch.
        UserCodeError: the loader, the forward function, the loss or a metric raised.
    """
    tallies = {name: _Tally(loss, metrics or {}) for name in variants}
    empty = True
    with torch.no_grad():
        for raw in batches_of(loader, f"{split}_loader"):
            empty = False
            batch = raw if device is None else move(raw, device)
            try:
                size = first_batch_size(batch)
                with SharedRandomness() as randomness:
                    for name, variant in variants.items():
                        randomness.rewind()
                        begun = _now(device) if timed else 0.0
                        output, target = variant(batch)
                        if timed:
                            tallies[name].passes_ms.append(1e3 * (_now(device) - begun))
                        tallies[name].add(output, target, size)
            except BatchError as error:
                raise BatchError(f"{split}_loader: {error}") from error
    if empty:
        raise EmptyLoaderError(
            f"{split}_loader yielded no batch: the {split} loader needs at least one each time "
            "it is iterated"
        )
    return {name: tally.result(variants[name]) for name, tally in tallies.items()}


def _now(device: torch.device | None) -> float:
    """Return the time in seconds at which everything asked of the device has been done."""
    if device is not None and device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
