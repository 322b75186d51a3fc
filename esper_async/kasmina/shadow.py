"""The shadow pass: a seed learns from the loss it would cause, and the host notices nothing.

The pass runs the whole network beside the host's own batch, with the seed fully on. The host's
parameters are detached, its buffers are the seed's own copies, and every random number comes from
the seed's stream; so the host's loss, gradients, buffers and weights are bitwise what they would
be without it. (Forward-mode isolation after the design's section "Seeds"; the reason is that a
straight-through kernel never feels its own effect.)
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper_async.kasmina.call import Call, contiguous
from esper_async.kasmina.evaluation import Loss, Variant
from esper_async.kasmina.kernels.graft import FullyOnHook, Graft
from esper_async.kasmina.micro_batches import parts_of
from esper_async.kasmina.precision import Precision
from esper_async.kasmina.ranks import LOCAL, Ranks
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.stand_in import Place, standing_in
from esper_async.kasmina.user_code import blaming


@contextmanager
def switched_on(model: nn.Module, seed: Seed) -> Iterator[None]:
    """Put a seed that is no part of the network into its forward pass for a block."""
    handle = model.get_submodule(seed.site.path).register_forward_hook(FullyOnHook(seed.graft))
    try:
        yield
    finally:
        handle.remove()


def start_shadow(model: nn.Module, seed: Seed) -> None:
    """Give a seed its own copies of the host's buffers and switch its graft fully on."""
    seed.buffers = {}
    follow_topology(model, seed)
    seed.graft.set_alpha(1.0)


def follow_topology(model: nn.Module, seed: Seed) -> None:
    """Let a seed have a copy of each of the host's buffers; those that it has stay as they are.

    The network's topology changes when a trial begins or ends.
    """
    shadow_places(model, seed)


def shadow_places(model: nn.Module, seed: Seed) -> list[Place]:
    """Return what a shadow pass puts in place of the host's own parameters and buffers.

    Parameters are detached, buffers the seed's own copies; what is tied stays tied. The alpha of a
    graft in the network is never written by a forward pass, and the living one is used.
    """
    kept, seed.buffers = seed.buffers, {}
    places: list[Place] = []
    stand_ins: dict[int, Tensor] = {}
    for path, module in model.named_modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                if id(parameter) not in stand_ins:
                    stand_ins[id(parameter)] = parameter.detach()
                places.append(Place(module._parameters, name, stand_ins[id(parameter)]))
        if not module._buffers or isinstance(module, Graft):
            continue
        for name, buffer in module._buffers.items():
            if buffer is None:
                continue
            if id(buffer) not in stand_ins:
                key = f"{path}.{name}" if path else name
                copy = kept[key] if key in kept else buffer.detach().clone()
                seed.buffers[key] = stand_ins[id(buffer)] = copy
            places.append(Place(module._buffers, name, stand_ins[id(buffer)]))
    return places


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
    places = in_plain_layout(shadow_places(call.model, seed))
    parts = parts_of(contiguous(batch))
    values = []
    assert seed.stream is not None, "a seed that trains has not ended"
    with seed.stream.active(), switched_on(call.model, seed), torch.enable_grad():  # type: ignore[no-untyped-call]
        for part in parts:
            with precision.autocast():
                with standing_in(places):
                    output, target = call(part)
                with blaming("loss"):
                    value = loss(output, target)
            if seed.optimizer is not None:
                share = value if len(parts) == 1 else value / len(parts)
                scaler = precision.scaler(seed.optimizer)
                with standing_in(places):  # what is checkpointed runs once more, and must meet them
                    add_gradients(trained(seed), share if scaler is None else scaler.scale(share))
            values.append(value.detach())
        if seed.optimizer is not None:
            learn(seed, seed.optimizer, clip_norm, precision, ranks)
    return values[0] if len(values) == 1 else torch.stack(values).mean()


def in_plain_layout(places: list[Place]) -> list[Place]:
    """Return the places with every stand-in in the plain memory layout.

    In torch 2.8 a backward pass through detached channels-last weights can end the process.
    """
    return [
        place if place.tensor.is_contiguous() else place._replace(tensor=place.tensor.contiguous())
        for place in places
    ]


def add_gradients(parameters: Sequence[nn.Parameter], value: Tensor) -> None:
    """Add the gradients of a value () to those that parameters have; one it misses gets zeros.

    It misses them all where the host lets no gradient pass from the site on.
    """
    gradients: Sequence[Tensor | None] = [None] * len(parameters)
    if value.requires_grad:
        gradients = torch.autograd.grad(value, parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        known = torch.zeros_like(parameter) if gradient is None else gradient
        parameter.grad = known if parameter.grad is None else parameter.grad + known


def learn(
    seed: Seed,
    optimizer: Optimizer,
    clip_norm: float,
    precision: Precision,
    ranks: Ranks = LOCAL,
) -> None:
    """Take a step of a seed's optimizer by the gradients that its parameters have."""
    scaler = precision.scaler(optimizer)
    known = [parameter.grad for parameter in trained(seed) if parameter.grad is not None]
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


def trained(seed: Seed) -> list[nn.Parameter]:
    """Return the parameters that a seed trains."""
    return [parameter for parameter in seed.graft.parameters() if parameter.requires_grad]


def shadow_variant(call: Call, seed: Seed) -> Variant:
    """Return the network with the seed on, to be evaluated: the seed's own buffers under it."""
    places = shadow_places(call.model, seed)

    def variant(batch: Any) -> tuple[Tensor, Tensor]:
        with switched_on(call.model, seed), standing_in(places):
            return cast(tuple[Tensor, Tensor], call(batch))

    return variant
