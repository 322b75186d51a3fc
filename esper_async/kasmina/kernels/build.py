"""How a kernel is built: the same bits for the same seed, and nobody else's random numbers."""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels.kernel import Kernel
from esper_async.kasmina.kernels.registry import KernelRefusedError, kernel_class
from esper_async.kasmina.kernels.setting import SettingRefusedError, resolve


def build_kernel(
    blueprint_id: str,
    interface: SiteInterface,
    parameters: Mapping[str, object] | None = None,
    *,
    seed: int,
    drill: bool = False,
) -> Kernel:
    """Build a blueprint's kernel for a site, on the CPU, in training mode.

    The same arguments give the same weights bit for bit, whatever was drawn before, and the
    caller's random state is left as it was. A build must not run while another thread draws from
    torch's global generator.

    Raises:
        KernelRefusedError: unknown, quarantined (unless `drill`), or does not fit the interface.
        SettingRefusedError: a parameter is unknown or out of its approved bounds.
    """
    kernel_type = kernel_class(blueprint_id, drill=drill)
    entry = kernel_type.blueprint
    misfit = entry.misfit(interface)
    if misfit is not None:
        raise KernelRefusedError(f"{entry.id} {entry.name} does not fit {interface.key}: {misfit}")
    try:
        settings = resolve(entry.settings, parameters or {}, interface)
    except SettingRefusedError as refusal:
        raise SettingRefusedError(f"{entry.id} {entry.name}: {refusal}") from None
    with torch.inference_mode(False), _on_the_cpu(), _own_random_stream(seed):
        kernel = kernel_type(interface, **settings)
    dtype = getattr(torch, interface.dtype)
    if dtype is not torch.get_default_dtype():
        kernel.to(dtype=dtype)
    if interface.layout == "channels_last":
        kernel.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return kernel


def _on_the_cpu() -> AbstractContextManager[object]:
    """Have tensors made on the CPU; where they are anyhow, a device's mode would slow each down."""
    return nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")


@contextmanager
def _own_random_stream(seed: int) -> Iterator[None]:
    """Draw initial weights from a stream of their own.

    `torch.manual_seed` would reach every CUDA generator too; this touches the CPU's alone.
    """
    generator = torch.default_generator
    before = generator.get_state()
    generator.manual_seed(seed)
    try:
        yield
    finally:
        generator.set_state(before)
