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
from torch.optim import Optimizer

from esper_async.kasmina.call import Call, contiguous, detached_parameters
from esper_async.kasmina.evaluation import Loss, Variant
from esper_async.kasmina.kernels.graft import Graft, GraftHook
from esper_async.kasmina.micro_batches import parts_of
from esper_async.kasmina.precision import Precision
from esper_async.kasmina.ranks import LOCAL, Ranks
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


def shadow_step(
    call: Call,
    seed: Seed,
    batch: Any,
    loss: Loss,
    *,
    clip_norm: float,
    precision: Precision,
    ranks: Ranks = LOCAL,
) -> Tensor:
    """Train a seed on the batch or batches of a step; return the loss () it would have caused.

    The kernel's gradients are averaged over the ranks, then scaled to a norm of at most
    `clip_norm`.
    """
    # In torch 2.8 a backward pass through detached channels-last weights can end the process.
    tensors = contiguous(shadow_tensors(call.model, seed))
    parts = parts_of(contiguous(batch))
    values = []
    assert seed.stream is not None, "a seed that trains has not ended"
    with seed.stream.active(), switched_on(call.model, seed), torch.enable_grad():  # type: ignore[no-untyped-call]
        for part in parts:
            with precision.autocast():
                output, target = call.with_tensors(tensors, part)
                with blaming("loss"):
                    value = loss(output, target)
            if seed.optimizer is not None:
                _add_gradients(seed, value if len(parts) == 1 else value / len(parts), precision)
            values.append(value.detach())
        if seed.optimizer is not None:
            _learn(seed, seed.optimizer, clip_norm, precision, ranks)
    return values[0] if len(values) == 1 else torch.stack(values).mean()


def _add_gradients(seed: Seed, value: Tensor, precision: Precision) -> None:
    assert seed.optimizer is not None
    scaler = precision.scaler(seed.optimizer)
    parameters = _trained(seed)
    scaled = value if scaler is None else scaler.scale(value)
    gradients = torch.autograd.grad(scaled, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        known = torch.zeros_like(parameter) if gradient is None else gradient
        parameter.grad = known if parameter.grad is None else parameter.grad + known


def _learn(
    seed: Seed, optimizer: Optimizer, clip_norm: float, precision: Precision, ranks: Ranks
) -> None:
    scaler = precision.scaler(optimizer)
    known = [parameter.grad for parameter in _trained(seed) if parameter.grad is not None]
    ranks.average(known)  # before anybody looks for an overflow: one rank's is everybody's
    if scaler is not None:
        scaler.unscale_(optimizer)
    norms = torch.stack(torch._foreach_norm(known))
    overflows = scaler is not None and not bool(torch.isfinite(norms).all())
    if not overflows:  # one that the scale explains says nothing of the kernel's health
        total = seed.gradients.note(norms)
        torch._foreach_mul_(known, torch.clamp(clip_norm / (total + 1e-6), max=1.0))
    if scaler is None:
        optimizer.step()
    else:
        scaler.step(optimizer)
        scaler.update()
    optimizer.zero_grad(set_to_none=True)


def _trained(seed: Seed) -> list[nn.Parameter]:
    return [parameter for parameter in seed.graft.parameters() if parameter.requires_grad]


def shadow_variant(call: Call, seed: Seed) -> Variant:
    """Return the network with the seed on, to be evaluated: the seed's own buffers under it."""
    tensors = shadow_tensors(call.model, seed)

    def variant(batch: Any) -> tuple[Tensor, Tensor]:
        with switched_on(call.model, seed):
            return call.with_tensors(tensors, batch)

    return variant
