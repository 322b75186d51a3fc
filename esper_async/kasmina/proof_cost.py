"""What a kernel costs, measured: parameters, FLOPs, time, and memory kept for the backward pass."""

from statistics import median
from time import perf_counter

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from esper_async.kasmina.kernels import Kernel

_REPEATS = 5


def measure_cost(kernel: Kernel, batch: Tensor) -> dict[str, int | float]:
    """Measure a kernel on a batch of activations (N, *shape), in training mode.

    Returns the certificate's fields for cost; FLOPs and saved bytes are of one sample.
    """
    forward_flops, training_flops = count_flops(kernel, batch)
    forward_ms, training_ms = _time(kernel, batch)
    return {
        "parameter_count": sum(p.numel() for p in kernel.parameters()),
        "parameter_bytes": sum(p.numel() * p.element_size() for p in kernel.parameters()),
        "forward_flops": forward_flops // len(batch),
        "training_flops": training_flops // len(batch),
        "saved_bytes": _saved_bytes(kernel, batch) // len(batch),
        "batch": len(batch),
        "threads": torch.get_num_threads(),
        "forward_ms": forward_ms,
        "training_ms": training_ms,
    }


def count_flops(kernel: Kernel, batch: Tensor) -> tuple[int, int]:
    """Count a batch's FLOPs: forward alone, and forward with backward.

    Attention is spelled out for the count: torch has no formula for its fused form on the CPU.
    """
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:
        answer = kernel(batch.detach().requires_grad_())
        forward = counter.get_total_flops()
        _backward(answer)
    return forward, counter.get_total_flops()


def _time(kernel: Kernel, batch: Tensor) -> tuple[float, float]:
    """Return the median milliseconds of a forward, and of a forward with its backward."""
    forwards, trainings = [], []
    for _ in range(_REPEATS):
        began = _now(batch)
        with torch.no_grad():
            kernel(batch)
        middle = _now(batch)
        _backward(kernel(batch.detach().requires_grad_()))
        forwards.append((middle - began) * 1e3)
        trainings.append((_now(batch) - middle) * 1e3)
    kernel.zero_grad(set_to_none=True)
    return median(forwards), median(trainings)


def _saved_bytes(kernel: Kernel, batch: Tensor) -> int:
    """Count the bytes that a forward keeps for its backward, the kernel's own weights apart."""
    own = {tensor.untyped_storage().data_ptr() for tensor in kernel.state_dict().values()}
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        answer = kernel(batch.detach().requires_grad_())
    del answer
    return sum(kept.values())


def _backward(answer: Tensor) -> None:
    if answer.requires_grad:
        answer.float().sum().backward()  # type: ignore[no-untyped-call]


def _now(batch: Tensor) -> float:
    if batch.is_cuda:
        torch.cuda.synchronize(batch.device)
    return perf_counter()
