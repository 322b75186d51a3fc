"""The accuracy on the last training step before a boundary, of the output that its loss had anyway.

A training step knows its loss alone. What one more pass over the training data would cost is not
spent: the last step tells how right the network was on its own samples, before it learned them, in
training mode. Where nobody knows which step is the last, or the task has no metric called
`accuracy`, it is not measured.
"""

import functools
import types
from typing import Any

import structlog
import torch
from torch import Tensor

from esper_async.kasmina.call import first_batch_size, map_tensors
from esper_async.kasmina.micro_batches import parts_of
from esper_async.kasmina.precision import Precision
from esper_async.kasmina.user_code import UserCodeError, blaming
from esper_async.tolaria import global_random
from esper_async.tolaria.task import Metric, Task
from esper_async.tolaria.training import make_train_step

_LOG = structlog.get_logger(__name__)
_METRIC = "accuracy"
_WHAT = f"Task.metrics[{_METRIC!r}]"
_HALVES = (torch.float16, torch.bfloat16)
_PLAIN = (types.FunctionType, types.BuiltinFunctionType)


class TrainingAccuracy:
    """A train step like the run's own that also keeps its outputs, and the metric of these.

    It changes nothing that a run's result hangs on: the metric gets copies of the targets, draws
    from no random stream of the run, and is left to validation where it may keep a state.

    Args:
        task: what is trained.
        precision: of its training passes.
    """

    def __init__(self, task: Task, precision: Precision) -> None:
        self._metric: Metric | None = task.metrics.get(_METRIC)
        self._kept: list[tuple[Any, Any]] = []
        self.step = make_train_step(task, precision, watch=self._keep)
        if self._metric is not None and not _is_plain(self._metric):
            name = type(self._metric).__name__
            self._give_up(f"{_WHAT} is a {name}, which may keep a state")

    @property
    def is_measured(self) -> bool:
        """Whether there is a metric that training data can be measured by."""
        return self._metric is not None

    def _keep(self, output: Any, target: Any) -> None:
        self._kept.append((output, target))

    def of(self, batch: Any) -> Tensor | None:
        """Return the mean () over the samples of the batch that `step` was last taken on.

        It is a tensor: nobody waits for the device. None, and told once, where the metric raises.
        """
        kept, self._kept = self._kept, []
        metric = self._metric
        assert metric is not None
        sizes = [first_batch_size(part) for part in parts_of(batch)]
        try:
            with blaming(_WHAT), torch.no_grad(), global_random.undisturbed():
                values = [_mean_of(metric, *pair) for pair in kept]
        except (UserCodeError, torch.OutOfMemoryError) as error:
            self._give_up(str(error))
            return None
        shares = [value * size for value, size in zip(values, sizes, strict=True)]
        return torch.stack(shares).sum() / sum(sizes)

    def _give_up(self, reason: str) -> None:
        self._metric = None
        _LOG.warning("training_accuracy_not_measured", reason=reason)


def _is_plain(metric: Metric) -> bool:
    """Whether a metric is a function, with arguments bound or not: it keeps nothing of a call."""
    while isinstance(metric, functools.partial):
        metric = metric.func
    return isinstance(metric, _PLAIN)


def _mean_of(metric: Metric, output: Any, target: Any) -> Tensor:
    value = metric(map_tensors(output, _as_in_validation), map_tensors(target, _copy))
    return torch.as_tensor(value).double().mean()


def _as_in_validation(output: Tensor) -> Tensor:
    """Return an output without its graph, in single precision where autocast left a half."""
    return output.detach().float() if output.dtype in _HALVES else output.detach()


def _copy(target: Tensor) -> Tensor:
    return target.detach().clone()
