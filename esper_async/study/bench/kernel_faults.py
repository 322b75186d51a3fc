"""What is wrong with a kernel at a site, looked at from outside; by the row that it is counted in.

This is no proof (`kasmina.proof` has that, for whoever plants a kernel): it is the measurement by
which both kernels and the proof can be caught, and shares no code with it.
"""

import copy
import io
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import Kernel, build_kernel

STEPS = 20
_NEAR = 0.25
"""Largest distance of a replacement from the activation, as a share of its norm."""


def contract_faults(blueprint_id: str, site: SiteInterface) -> list[str]:
    """Say where shape, dtype or layout change, for batches of one and of more, in both modes."""
    kernel, found = build_kernel(blueprint_id, site, seed=0), []
    for training in (True, False):
        kernel.train(training)
        for count in (1, 3):
            h = activations(site, count)
            answer = kernel(h)
            if answer.shape != h.shape:
                found.append(f"shape {tuple(answer.shape)} of {tuple(h.shape)}")
            if answer.dtype != h.dtype:
                found.append(f"{answer.dtype} of {h.dtype}")
    return found


def start_faults(blueprint_id: str, site: SiteInterface) -> list[str]:
    """Say how far off it starts: more than nothing for a change, far from its input otherwise.

    One that declares alpha's ramp to be its start is held to it in evaluation.
    """
    kernel, h = build_kernel(blueprint_id, site, seed=0), activations(site, 8)
    if kernel.blueprint.start_exemption is not None:
        kernel.eval()
    change = (_applied(kernel, h) - h).float().norm() / h.float().norm()
    limit = 0.0 if kernel.output == "change" else _NEAR
    return [] if change <= limit else [f"starts {change:.3f} of the activation away"]


def gradient_faults(blueprint_id: str, site: SiteInterface) -> list[str]:
    """Name the tensors without a finite gradient, not zero, in any of the first steps."""
    kernel = build_kernel(blueprint_id, site, seed=0)
    waiting = {name for name, _ in kernel.named_parameters()}
    exempt = kernel.blueprint.gradient_exemption
    if not waiting:
        return [] if exempt else ["has no parameters, and no reason why"]
    for _ in _trained(kernel, site, STEPS):
        for name, parameter in kernel.named_parameters():
            if parameter.grad is None or not parameter.grad.any():
                continue
            if not parameter.grad.isfinite().all():
                return [f"{name}: a gradient that is not finite"]
            waiting.discard(name)
    return [] if exempt else [f"{name}: no gradient in {STEPS} steps" for name in sorted(waiting)]


def state_faults(blueprint_id: str, site: SiteInterface) -> list[str]:
    """Say which copies of a trained kernel answer otherwise than it does."""
    kernel, h = _some_training(blueprint_id, site), activations(site, 3)
    other = build_kernel(blueprint_id, site, seed=1)
    other.load_state_dict(kernel.state_dict(), strict=True)
    copies = {"state_dict": other, "deepcopy": copy.deepcopy(kernel)}
    expected = _drawn(kernel, h)
    return [name for name, twin in copies.items() if not torch.equal(_drawn(twin, h), expected)]


def export_faults(blueprint_id: str, site: SiteInterface) -> list[str]:
    """Say whether a trained kernel, exported for any batch size, written and read, is another."""
    kernel, h = _some_training(blueprint_id, site).eval(), activations(site, 4)
    batch = torch.export.Dim("batch", min=2, max=512)
    content = io.BytesIO()
    try:
        program = torch.export.export(kernel, (h,), dynamic_shapes=({0: batch},))
        torch.export.save(program, content)
        content.seek(0)
        loaded = torch.export.load(content).module()
    except Exception as error:  # noqa: BLE001 - whatever keeps it from being exported is the finding
        return [f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"]
    other = activations(site, 7)
    tolerance = 1e-5 if site.dtype == "float32" else 2e-2
    same = torch.allclose(loaded(other), kernel(other), rtol=tolerance, atol=tolerance)
    return [] if same else ["the exported program answers otherwise"]


FAULTS: Mapping[str, Callable[[str, SiteInterface], list[str]]] = {
    "shape or dtype changed": contract_faults,
    "start away from the activation": start_faults,
    f"without a gradient in {STEPS} steps": gradient_faults,
    "other after state_dict or deepcopy": state_faults,
}
EXPORT = "other after export, saving and loading"


def activations(site: SiteInterface, count: int, seed: int = 0) -> Tensor:
    """Return random activations (count, *shape) in the site's dtype."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, *site.shape, generator=generator).to(getattr(torch, site.dtype))


def _applied(kernel: Kernel, h: Tensor) -> Tensor:
    answer: Tensor = kernel(h)
    return h + answer if kernel.output == "change" else answer


def _trained(kernel: Kernel, site: SiteInterface, steps: int) -> Iterator[None]:
    """Train towards a fixed target, by signs of gradients; yield while there are gradients."""
    h, target = activations(site, 3), activations(site, 3, seed=1)
    for _ in range(steps):
        kernel.zero_grad()
        loss = (_applied(kernel, h) - target).float().square().mean()
        loss.backward()  # type: ignore[no-untyped-call]
        yield
        with torch.no_grad():
            for parameter in kernel.parameters():
                if parameter.grad is not None:
                    parameter.sub_(parameter.grad.sign(), alpha=0.01)


def _some_training(blueprint_id: str, site: SiteInterface) -> Kernel:
    kernel = build_kernel(blueprint_id, site, seed=0)
    if any(True for _ in kernel.parameters()):
        for _ in _trained(kernel, site, 3):
            pass
    return kernel


def _drawn(kernel: nn.Module, h: Tensor) -> Tensor:
    """Return its answer with the random stream at its beginning."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(0)
        answer: Tensor = kernel(h)
    return answer
