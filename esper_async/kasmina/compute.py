"""Counting multiply-accumulates: what the host, the shadow passes and the twins cost, measured."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from esper_async.kasmina.call import Call, Forward, cloned_buffers, first_batch_size
from esper_async.kasmina.evaluation import Loss
from esper_async.kasmina.random_state import RandomStream, fresh_stream


def count_macs(work: Callable[[], object]) -> int:
    """Do some work and return the multiply-accumulates of its matrix products and convolutions."""
    with FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops()) // 2


def training_macs(model: nn.Module, forward: Forward, batch: Any, loss: Loss) -> float:
    """Return the multiply-accumulates a sample of one forward and backward pass.

    The network's gradients, buffers and mode and the global random state are untouched.
    """
    parameters = {
        name: p.detach().requires_grad_(p.requires_grad) for name, p in model.named_parameters()
    }
    learning = [tensor for tensor in parameters.values() if tensor.requires_grad]
    tensors = parameters | cloned_buffers(model)

    def pass_through() -> None:
        output, target = Call(model, forward).with_tensors(tensors, batch)
        torch.autograd.grad(loss(output, target), learning, allow_unused=True)

    with RandomStream(fresh_stream("count")).active(), torch.enable_grad():  # type: ignore[no-untyped-call]
        return count_macs(pass_through) / first_batch_size(batch)
