"""The shadow pass: a seed learns from the loss it would cause, and the host notices nothing.

The pass runs the whole network beside the host's own batch, with the seed fully on. The host's
parameters are detached, its buffers are the seed's own copies, and every random number comes from
the seed's stream; so the host's loss, gradients, buffers and weights are bitwise what they would
be without it. (Forward-mode isolation after the design's section "Seeds"; the reason is that a
straight-through kernel never feels its own effect.)
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from esper_async.kasmina.call import Call, contiguous, detached_parameters
from esper_async.kasmina.evaluation import Loss, Variant
from esper_async.kasmina.kernels.graft import Graft, GraftHook
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.user_code import blaming


@contextmanager
def switched_on(model: nn.Module, seed: Seed) -> Iterator[None]:
    """Put a seed that is no part of the network into its forward pass for a block."""
    handle = model.get_submodule(seed.site.path).register_forward_hook(GraftHook(seed.graft))
    try:
        yield
    finally:
        handle.remove()


def start_shadow(model: nn.Module, seed: Seed) -> None:
    """Give a seed its own copies of the host's buffers and switch its graft fully on."""
    seed.buffers = {}
    shadow_tensors(model, seed)
    seed.graft.set_alpha(1.0)


def shadow_tensors(model: nn.Module, seed: Seed) -> dict[str, Tensor]:
    """Return what a shadow pass puts in place of the host's own parameters and buffers.

    Parameters are detached, buffers the seed's own copies. The copies follow the network's
    topology, which changes when a trial begins or ends; the alpha of a graft in the network is
    never written by a forward pass, and the living one is used.
    """
    alphas = {id(part.alpha) for part in model.modules() if isinstance(part, Graft)}
    living = {name: b for name, b in model.named_buffers() if id(b) not in alphas}
    kept = seed.buffers
    seed.buffers = {
        name: kept[name] if name in kept else buffer.detach().clone()
        for name, buffer in living.items()
    }
    return {**detached_parameters(model), **seed.buffers}


def shadow_step(call: Call, seed: Seed, batch: Any, loss: Loss, *, clip_norm: float) -> Tensor:
    """Train a seed on one batch and return the loss () that it would have caused.

    The kernel's gradients are scaled to a norm of at most `clip_norm`.
    """
    # In torch 2.8 a backward pass through detached channels-last weights can end the process.
    tensors = contiguous(shadow_tensors(call.model, seed))
    batch = contiguous(batch)
    with seed.stream.active(), switched_on(call.model, seed), torch.enable_grad():  # type: ignore[no-untyped-call]
        output, target = call.with_tensors(tensors, batch)
        with blaming("loss"):
            value = loss(output, target)
        if seed.optimizer is not None:
            _learn(seed, value, clip_norm)
    return value.detach()


def _learn(seed: Seed, value: Tensor, clip_norm: float) -> None:
    parameters = [p for p in seed.kernel.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    known = [
        torch.zeros_like(parameter) if gradient is None else gradient
        for parameter, gradient in zip(parameters, gradients, strict=True)
    ]
    total = seed.gradients.note(torch.stack(torch._foreach_norm(known)))
    torch._foreach_mul_(known, torch.clamp(clip_norm / (total + 1e-6), max=1.0))
    for parameter, gradient in zip(parameters, known, strict=True):
        parameter.grad = gradient
    assert seed.optimizer is not None
    seed.optimizer.step()
    seed.optimizer.zero_grad(set_to_none=True)


def shadow_variant(call: Call, seed: Seed) -> Variant:
    """Return the network with the seed on, to be evaluated: the seed's own buffers under it."""
    tensors = shadow_tensors(call.model, seed)

    def variant(batch: Any) -> tuple[Tensor, Tensor]:
        with switched_on(call.model, seed):
            return call.with_tensors(tensors, batch)

    return variant
