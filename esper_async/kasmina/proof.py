"""The proof of a kernel: a certificate that it is what its blueprint says, at one interface.

A pure function of code, interface, settings, torch version and device (the times apart). The forge
runs it in its worker; without a supervisor it runs in the training process. It leaves torch's
random state, threads, grad mode and autocast as they were.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from hashlib import sha256
from math import prod
from time import perf_counter
from typing import Any

import torch

from esper_async.kasmina.certificate import CERTIFICATE_SCHEMA, Certificate
from esper_async.kasmina.code_hash import code_hash
from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import KernelRefusedError, build_kernel, kernel_class
from esper_async.kasmina.kernels.setting import resolve
from esper_async.kasmina.proof_checks import CHECKS, Subject
from esper_async.kasmina.proof_cost import measure_cost

__all__ = ["Certificate", "certificate_key", "code_hash", "prove"]

# Raised by one whenever the checks change what they demand, so that old certificates lapse.
_RULES = 1
_BATCH_VALUES = 16_384


def certificate_key(
    blueprint_id: str,
    interface: SiteInterface,
    *,
    parameters: Mapping[str, object] | None = None,
    device: str | torch.device = "cpu",
) -> str:
    """Return the name under which a certificate is stored: what it vouches for, hashed.

    Raises:
        KernelRefusedError: there is no such blueprint.
        SettingRefusedError: a parameter is unknown or out of bounds.
    """
    settings = resolve(
        kernel_class(blueprint_id, drill=True).blueprint.settings, parameters or {}, interface
    )
    vouched = {
        "rules": [CERTIFICATE_SCHEMA, _RULES],
        "code": code_hash(blueprint_id),
        "settings": settings,
        "torch": torch.__version__,
        "device": _device_name(device),
    }
    digest = sha256(json.dumps(vouched, sort_keys=True).encode()).hexdigest()
    return f"{blueprint_id}-{interface.key}-{digest[:24]}"


def prove(
    blueprint_id: str,
    interface: SiteInterface,
    *,
    parameters: Mapping[str, object] | None = None,
    device: str | torch.device = "cpu",
    drill: bool = False,
) -> Certificate:
    """Prove a blueprint at an interface; a certificate with `passed` false says what did not hold.

    Not for two threads at once: it runs on torch's global random stream, which it then restores.

    Raises:
        KernelRefusedError: unknown, quarantined (unless `drill`), or does not fit the interface.
        SettingRefusedError: a parameter is unknown or out of bounds.
    """
    began = perf_counter()
    blueprint = kernel_class(blueprint_id, drill=drill).blueprint
    misfit = blueprint.misfit(interface)
    if misfit is not None:
        raise KernelRefusedError(f"{blueprint_id} does not fit {interface.key}: {misfit}")
    key = certificate_key(blueprint_id, interface, parameters=parameters, device=device)
    with _own_surroundings(torch.device(device)):
        failures, found = _examine(blueprint_id, interface, parameters, torch.device(device))
    return Certificate(
        key=key,
        blueprint_id=blueprint_id,
        blueprint_name=blueprint.name,
        output=blueprint.output,
        kind=interface.kind,
        shape=interface.shape,
        dtype=interface.dtype,
        layout=interface.layout,
        settings=resolve(blueprint.settings, parameters or {}, interface),
        device=_device_name(device),
        torch_version=torch.__version__,
        code_hash=code_hash(blueprint_id),
        passed=not failures,
        failures=tuple(failures),
        gradient_exemption=blueprint.gradient_exemption,
        start_exemption=blueprint.start_exemption,
        proof_ms=(perf_counter() - began) * 1e3,
        **found,
    )


def _examine(
    blueprint_id: str,
    interface: SiteInterface,
    parameters: Mapping[str, object] | None,
    device: torch.device,
) -> tuple[list[str], dict[str, Any]]:
    """Run every check and the measurements; return what is wrong and what was found."""
    try:
        subject = _subject(blueprint_id, interface, parameters, device)
    except Exception as error:  # noqa: BLE001 - foreign code: any failure is a finding, and named
        return [f"cannot be built: {type(error).__name__}: {error}"], {}
    failures: list[str] = []
    cost: dict[str, Any] = {}
    stage = "its forward or backward"
    try:
        for check in CHECKS:
            stage = check.__name__.replace("_", " ")
            failures += check(subject)
        stage = "measuring its cost"
        cost = measure_cost(subject.kernel, subject.batch)
    except Exception as error:  # noqa: BLE001 - foreign code: any failure is a finding, and named
        failures.append(f"raised in {stage}: {type(error).__name__}: {error}")
    return failures, {**subject.found, **cost}


def _subject(
    blueprint_id: str,
    interface: SiteInterface,
    parameters: Mapping[str, object] | None,
    device: torch.device,
) -> Subject:
    def build(seed: int) -> Any:
        return build_kernel(blueprint_id, interface, parameters, seed=seed, drill=True)

    def reseed() -> None:
        torch.default_generator.manual_seed(0)
        if device.type == "cuda":
            torch.cuda.manual_seed(0)

    count = max(2, min(16, _BATCH_VALUES // prod(interface.shape)))
    generator = torch.Generator().manual_seed(0)
    dtype = getattr(torch, interface.dtype)
    batch, target = (
        torch.randn(count, *interface.shape, generator=generator).to(device, dtype)
        for _ in range(2)
    )
    if interface.layout == "channels_last":
        batch = batch.contiguous(memory_format=torch.channels_last)
    return Subject(build(0).to(device), interface, batch, target, build, reseed)


@contextmanager
def _own_surroundings(device: torch.device) -> Iterator[None]:
    """Give the proof its own random state, gradients on, autocast off; restore what was."""
    devices = [device] if device.type == "cuda" else []
    with (
        torch.random.fork_rng(devices=devices),
        torch.inference_mode(False),
        torch.set_grad_enabled(True),
        torch.autocast(device.type, enabled=False),
        torch.device("cpu"),
    ):
        yield


def _device_name(device: str | torch.device) -> str:
    """Name the device as far as a proof depends on it: "cpu", or the model of the GPU."""
    device = torch.device(device)
    if device.type != "cuda":
        return device.type
    return f"cuda:{torch.cuda.get_device_name(device)}"
