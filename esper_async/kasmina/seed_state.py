"""A seed as values that can be saved, and back again.

One past its reset does not change any more: it is text, made once. As objects, hundreds of such
records would be walked and copied at each checkpoint.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer

from esper_async.kasmina.call import move
from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.kernels.graft import Graft
from esper_async.kasmina.optimizer_state import load_optimizer
from esper_async.kasmina.quantity import Quantity
from esper_async.kasmina.random_state import RandomStream
from esper_async.kasmina.seed import Candidate, Seed
from esper_async.kasmina.seed_optimizer import sibling_optimizer
from esper_async.kasmina.sites import Site
from esper_async.kasmina.stage import Stage

_PLAIN = (
    "attribute",
    "tournament",
    "born_boundary",
    "stage_steps",
    "stage_boundaries",
    "windows",
    "parameter_count",
    "ended_boundary",
    "rest_boundaries",
    "paused",
    "hurried",
    "stood_down",
    "asked",
    "given_rate",
    "shadow_passes",
    "violations",
)
_QUANTITIES = ("clean_contribution", "dependence", "benefit_vs_twin")


def seed_state(seed: Seed) -> dict[str, Any] | str:
    """Return a seed's state; weights, optimizer and buffers only while it lives."""
    if seed.stage is not Stage.DORMANT:
        return _state(seed)
    if seed.record is None:
        seed.record = json.dumps(_state(seed), separators=(",", ":"))
    return seed.record


def saved_seed(state: Mapping[str, Any] | str) -> Mapping[str, Any]:
    """Return as a mapping what `seed_state` returned."""
    if isinstance(state, str):
        found: Mapping[str, Any] = json.loads(state)
        return found
    return state


def _state(seed: Seed) -> dict[str, Any]:
    living = not seed.ended
    return {
        "id": seed.id,
        "site": seed.site.name,
        "candidate": seed.candidate.to_json(),
        "stage": int(seed.stage),
        "plain": {name: getattr(seed, name) for name in _PLAIN},
        "quantities": {name: _quantity(getattr(seed, name)) for name in _QUANTITIES},
        "gates": [(g.name, g.passed, g.reason, dict(g.numbers), g.boundary) for g in seed.gates],
        "stream": None if seed.stream is None else seed.stream.state,
        "graft": dict(seed.graft.state_dict()) if living else None,
        "optimizer": seed.optimizer.state_dict() if seed.optimizer is not None else None,
        "buffers": dict(seed.buffers),
        "gradients": seed.gradients.state_dict() if living else None,
    }


def restore_seed(
    saved: Mapping[str, Any],
    sites: Mapping[str, Site],
    build: Callable[[Candidate], Graft],
    *,
    host_optimizer: Optimizer,
) -> Seed:
    """Return the seed that was saved; a living one with its kernel's weights and its optimizer.

    `build` makes a kernel of its kind, `host_optimizer` says of which kind its optimizer is.
    """
    candidate = Candidate(**saved["candidate"])
    site = sites[saved["site"]]
    body = None if saved["graft"] is None else build(candidate)
    plain = dict(saved["plain"])
    seed = Seed(
        id=saved["id"],
        site=site,
        candidate=candidate,
        body=body,
        optimizer=None,
        tournament=plain.pop("tournament"),
        born_boundary=plain.pop("born_boundary"),
        parameter_count=plain.pop("parameter_count"),
        stream=None if saved["stream"] is None else RandomStream(saved["stream"]),
        stage=Stage(saved["stage"]),
    )
    for name, value in plain.items():
        setattr(seed, name, value)
    for name, value in saved["quantities"].items():
        setattr(seed, name, None if value is None else Quantity(*value))
    seed.gates = [GateResult(*gate) for gate in saved["gates"]]
    if body is not None:
        seed.optimizer = sibling_optimizer(host_optimizer, body.parameters())
        _load(seed, saved)
    return seed


def _load(seed: Seed, saved: Mapping[str, Any]) -> None:
    """Load the weights, buffers and optimizer state of a living seed, strictly.

    A checkpoint is read into main memory: what is used beside the kernel goes to its device.
    """
    seed.graft.load_state_dict(saved["graft"], strict=True)
    device = seed.graft.alpha.device
    seed.gradients.load_state_dict(move(saved["gradients"], device))
    seed.buffers = {name: buffer.to(device, copy=True) for name, buffer in saved["buffers"].items()}
    if seed.optimizer is not None and saved["optimizer"] is not None:
        load_optimizer(seed.optimizer, saved["optimizer"])
    elif saved["optimizer"] is None:
        seed.optimizer = None


def _quantity(quantity: Quantity | None) -> tuple[Any, ...] | None:
    if quantity is None:
        return None
    return (
        quantity.mean,
        quantity.low,
        quantity.high,
        quantity.n,
        quantity.paired_by,
        quantity.unit,
        quantity.estimated,
    )
