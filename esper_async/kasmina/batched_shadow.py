"""The batched shadow pass: candidates at one site learn in one pass over their host.

What lies before the site is computed once, each candidate's blend once and from its own random
stream; the rest of the network and the loss are mapped over the candidates (`torch.vmap`), so that
each gets the loss that it alone would cause. Losses and gradients are those of passes one by one,
but for the order in which sums are taken. It holds the activations of all candidates at once.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from esper_async.kasmina.call import Call, contiguous
from esper_async.kasmina.evaluation import Loss
from esper_async.kasmina.kernels.graft import first_tensor, with_first_tensor
from esper_async.kasmina.micro_batches import parts_of
from esper_async.kasmina.precision import Precision
from esper_async.kasmina.random_state import RandomStream, fresh_stream, global_states
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.shadow import (
    add_gradients,
    follow_topology,
    in_plain_layout,
    learn,
    shadow_places,
    trained,
)
from esper_async.kasmina.stand_in import Place, standing_in
from esper_async.kasmina.user_code import blaming

_SLOW_RULE = "There is a performance drop"
"""How torch begins to warn that it maps an operation by doing it over and over."""
_AGREE = 1e-4
"""Largest relative difference of a loss or a gradient that another order of sums explains."""


def batched_shadow_step(
    call: Call,
    seeds: Sequence[Seed],
    batch: Any,
    loss: Loss,
    *,
    clip_norm: float,
    precision: Precision,
) -> Tensor:
    """Train seeds of one site on the batch or batches of a step; return their losses (S,).

    The host must be one for which `why_one_by_one` has nothing to say.
    """
    places = in_plain_layout(shadow_places(call.model, seeds[0]))
    for seed in seeds[1:]:
        follow_topology(call.model, seed)
    parts = parts_of(contiguous(batch))
    values = []

    def blends(activation: Tensor) -> Tensor:
        return torch.stack([_blend(seed, activation) for seed in seeds])  # (S, *activation)

    with RandomStream(fresh_stream("batched")).active(), torch.enable_grad():  # type: ignore[no-untyped-call]
        for part in parts:
            losses, _ = _losses(call, seeds[0], places, part, loss, blends, count=len(seeds))
            total = losses.sum() if len(parts) == 1 else losses.sum() / len(parts)
            add_gradients([p for seed in seeds for p in trained(seed)], total)
            values.append(losses.detach())
        for seed in seeds:
            assert seed.optimizer is not None, "a kernel that learns nothing is not batched"
            learn(seed, seed.optimizer, clip_norm, precision)
    return values[0] if len(values) == 1 else torch.stack(values).mean(dim=0)


def _blend(seed: Seed, activation: Tensor) -> Tensor:
    assert seed.stream is not None, "a seed that trains has not ended"
    with seed.stream.active():
        blend: Tensor = seed.graft(activation, fully_on=True)
        return blend


# -- mapping the network over candidates -----------------------------------------------------------


class _OneForEach(torch.autograd.Function):
    """Hand row i of a stack (S, ...) to the i-th of S passes; mapped, it is the stack itself.

    An index would copy the stack, and add gradients up into it one by one.
    """

    @staticmethod
    def forward(index: Tensor, stack: Tensor) -> Tensor:
        """Return a row of the stack."""
        return stack[index]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Keep nothing: mapped, it is differentiated as the view that it is."""

    @staticmethod
    def vmap(info: Any, in_dims: Any, index: Tensor, stack: Tensor) -> tuple[Tensor, int]:
        """Return the stack and the dimension that is mapped."""
        return stack.view_as(stack), 0


def _losses(
    call: Call,
    seed: Seed,
    places: Sequence[Place],
    batch: Any,
    loss: Loss,
    blends: Callable[[Tensor], Tensor],
    *,
    count: int,
) -> tuple[Tensor, int]:
    """Return the loss (S,) of each pass, and how often the site was called in them."""
    site = call.model.get_submodule(seed.site.path)
    calls = 0
    index = torch.zeros(())

    def fork(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        chosen = _OneForEach.apply(index, blends(first_tensor(output)))  # type: ignore[no-untyped-call]
        return with_first_tensor(output, chosen)

    def one_pass(number: Tensor) -> Tensor:
        nonlocal index
        index = number
        output, target = call(batch)
        with blaming("loss"):
            return loss(output, target)

    device = places[0].tensor.device if places else None
    with hooked(site, fork), standing_in(places), mappable_attention(device):
        # a kernel's random numbers are drawn once, in its own stream; the host draws none
        losses = torch.vmap(one_pass, randomness="same")(torch.arange(count, device=device))
    return losses, calls


@contextmanager
def hooked(module: nn.Module, hook: Any) -> Iterator[None]:
    """Call a forward hook of a module for a block."""
    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def mappable_attention(device: torch.device | None) -> AbstractContextManager[None]:
    """Have attention computed in steps that can be mapped: torch 2.8 maps no fused one on a CPU."""
    if device is not None and device.type != "cpu":
        return nullcontext()
    return sdpa_kernel(SDPBackend.MATH)


# -- whether it may be -----------------------------------------------------------------------------


def why_one_by_one(call: Call, seeds: Sequence[Seed], batch: Any, loss: Loss) -> str:
    """Say why candidates at a site cannot learn in one pass; nothing if they can.

    It is tried out: two candidates that change nothing are mapped through the host on copies of its
    buffers, and must come to the very loss and gradient of the host alone, draw no random number
    and write no buffer. Nothing of the run is touched, and no clock is read.
    """
    reason = _differing_copies(seeds)
    if reason:
        return reason
    part = parts_of(contiguous(batch))[0]
    places = [
        place._replace(tensor=place.tensor.clone())
        for place in in_plain_layout(shadow_places(call.model, seeds[0]))
    ]
    versions = [place.tensor._version for place in places]
    with RandomStream(fresh_stream("one by one")).active(), torch.enable_grad():  # type: ignore[no-untyped-call]
        before = global_states()
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("error", _SLOW_RULE)
                agree = _agrees_with_itself(call, seeds[0], places, part, loss)
        except Exception as error:  # noqa: BLE001 - whatever keeps it from being mapped is named
            return f"it cannot be mapped over candidates: {error}"
        if not all(map(torch.equal, before, global_states())):
            return "its forward pass or loss draws random numbers"
    if [place.tensor._version for place in places] != versions:
        return "its forward pass writes its buffers"
    return "" if agree else "mapped over candidates it computes something else"


def _differing_copies(seeds: Sequence[Seed]) -> str:
    first = seeds[0].buffers
    for seed in seeds[1:]:
        if seed.buffers.keys() != first.keys() or not all(
            torch.equal(buffer, first[name]) for name, buffer in seed.buffers.items()
        ):
            return "the candidates' copies of its buffers differ"
    return ""


def _agrees_with_itself(
    call: Call, seed: Seed, places: Sequence[Place], batch: Any, loss: Loss
) -> bool:
    """Whether each of two passes has the loss, and its gradient at the site, of one alone."""
    activation, value, gradient = _alone(call, seed, places, batch, loss)
    both = torch.stack([activation, activation]).requires_grad_()
    losses, calls = _losses(call, seed, places, batch, loss, lambda _: both.clone(), count=2)
    gradients = torch.autograd.grad(losses.sum(), both)[0]
    return calls == 1 and all(
        _close(losses[each], value) and _close(gradients[each], gradient) for each in (0, 1)
    )


def _alone(
    call: Call, seed: Seed, places: Sequence[Place], batch: Any, loss: Loss
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the activation at the site, the host's loss (), and its gradient by the former."""
    leaves: list[Tensor] = []

    def watch(module: nn.Module, args: Any, output: Any) -> Any:
        leaves.append(first_tensor(output).detach().requires_grad_())
        passed = leaves[-1].clone()  # the host may write into it
        return with_first_tensor(output, passed)

    site = call.model.get_submodule(seed.site.path)
    with hooked(site, watch), standing_in(places):
        output, target = call(batch)
        with blaming("loss"):
            value = loss(output, target)
    gradient = torch.autograd.grad(value, leaves[0])[0]
    return leaves[0].detach(), value.detach(), gradient


def _close(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    distance = torch.linalg.vector_norm(one.detach() - other)
    return bool(distance <= _AGREE * torch.linalg.vector_norm(other) + torch.finfo(one.dtype).eps)
