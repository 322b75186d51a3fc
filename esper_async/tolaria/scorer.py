"""Evaluating a network on a split: as it is, or with the variants that its seeds are judged by."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from torch import nn

from esper_async.kasmina.call import Call, Forward
from esper_async.kasmina.evaluation import Evaluation, Metric, SampleLoss, Variant, evaluate
from esper_async.kasmina.evaluation_form import EVALUATIONS
from esper_async.kasmina.executor import Executor
from esper_async.kasmina.modes import evaluation_mode
from esper_async.kasmina.ranks import Ranks


class Scorer:
    """Evaluates on rank 0; every rank goes on from its results.

    Args:
        model: the network.
        forward: `(model, batch) -> (output, target)`.
        loss: the loss, by sample where it can be had.
        metrics: `(output, target) -> value` by name.
        ranks: the processes of the run.
        timed: forward passes of the decision split are timed.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        forward: Forward,
        loss: SampleLoss,
        metrics: Mapping[str, Metric],
        ranks: Ranks,
        timed: bool = False,
    ) -> None:
        self._model = model
        self._forward = forward
        self._loss = loss
        self._metrics = metrics
        self._ranks = ranks
        self._timed = timed

    def variants(self, loader: Iterable[Any], executor: Executor | None) -> dict[str, Evaluation]:
        """Evaluate the network, under the name "host", and what its seeds need beside it."""
        return self._ranks.from_first(partial(self._variants, loader, executor), EVALUATIONS)

    def _variants(self, loader: Iterable[Any], executor: Executor | None) -> dict[str, Evaluation]:
        variants, modules = self._alone(), [self._model]
        if executor is not None:
            variants |= executor.variants()
            modules += executor.modules()
        return self._run(variants, modules, loader, "validation", timed=self._timed)

    def score(self, loader: Iterable[Any], *, split: str) -> Evaluation:
        """Evaluate the network alone; `split` is the data's name in messages."""
        work = partial(self._run, self._alone(), [self._model], loader, split)
        return self._ranks.from_first(work, EVALUATIONS)["host"]

    def _alone(self) -> dict[str, Variant]:
        return {"host": Call(self._model, self._forward)}

    def _run(
        self,
        variants: Mapping[str, Variant],
        modules: list[nn.Module],
        loader: Iterable[Any],
        split: str,
        *,
        timed: bool = False,
    ) -> dict[str, Evaluation]:
        device = next(self._model.parameters()).device
        with evaluation_mode(modules):
            return evaluate(
                variants,
                loader,
                self._loss,
                metrics=self._metrics,
                device=device,
                split=split,
                timed=timed,
            )
