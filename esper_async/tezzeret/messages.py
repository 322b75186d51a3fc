"""From the bus's messages to the forge's work, and from its results to messages."""

import re
from collections.abc import Mapping
from typing import Any

from esper_async.kasmina.compiling.kernel_record import Compilation, Strategy
from esper_async.kasmina.interface import SiteInterface
from esper_async.leyline import (
    SCHEMA_VERSION,
    CompileStrategy,
    KernelError,
    KernelReady,
    KernelRequest,
)
from esper_async.leyline import SiteInterface as SiteInterfaceMessage
from esper_async.tezzeret.job import Answer, Compile, JobKind, Work, interface_from_dict

EAGER = CompileStrategy.COMPILE_STRATEGY_EMERGENCY
"""The strategy of a kernel that is not compiled."""
_STRATEGIES = {
    CompileStrategy.COMPILE_STRATEGY_FAST: Strategy.FAST,
    CompileStrategy.COMPILE_STRATEGY_STANDARD: Strategy.STANDARD,
    CompileStrategy.COMPILE_STRATEGY_AGGRESSIVE: Strategy.AGGRESSIVE,
}
_WIRE = {strategy: value for value, strategy in _STRATEGIES.items()}


class RequestRefusedError(Exception):
    """A kernel request that can never be met; the message says why."""


def work_of(request: KernelRequest, *, fingerprint: str, torch_version: str) -> Work:
    """What a request asks for; without a blueprint it asks which ones fit the interface.

    One that names a strategy asks for a compiled kernel.

    Raises RequestRefusedError.
    """
    wanted = _release(request.torch_version)
    if wanted and wanted != _release(torch_version):
        raise RequestRefusedError(
            f"asked for torch {request.torch_version}; this forge has {torch_version}"
        )
    site = request.interface
    try:
        interface = interface_from_dict(
            {
                "kind": site.kind,
                "shape": list(site.shape),
                "dtype": site.dtype or "float32",
                "layout": site.layout or "contiguous",
            }
        )
    except ValueError as error:
        raise RequestRefusedError(f"no such interface: {error}") from error
    strategy = _STRATEGIES.get(request.strategy)
    if strategy is not None:
        _check_compilable(request)
    certified = JobKind.PROVE if request.blueprint_id else JobKind.SURVEY
    return Work(
        kind=certified if strategy is None else JobKind.COMPILE,
        interface=interface,
        fingerprint=fingerprint,
        blueprint=request.blueprint_id,
        settings={name: _number(value) for name, value in sorted(request.parameters.items())},
        device=request.device or "cpu",
        compile=None if strategy is None else Compile(request.batch, request.threads, strategy),
    )


def _check_compilable(request: KernelRequest) -> None:
    if not request.blueprint_id:
        raise RequestRefusedError("asked to compile, but not which blueprint")
    if request.device not in ("", "cpu"):
        raise RequestRefusedError(f"kernels are compiled for the CPU, not for {request.device}")
    if request.batch < 1 or request.threads < 1:
        raise RequestRefusedError(
            f"asked to compile for batches of {request.batch} on {request.threads} threads; both "
            "are at least 1"
        )


def ready(answer: Answer, certificate: Mapping[str, Any]) -> KernelReady:
    """The message that a kernel is certified; what was not measured stays absent."""
    message = KernelReady(
        version=SCHEMA_VERSION,
        kernel_id=answer.job.key,
        request_id=answer.request_id,
        blueprint_id=answer.job.work.blueprint,
        interface=interface_message(answer.job.work.interface),
        certificate_key=answer.job.key,
        strategy=EAGER,
        parameters=certificate["parameter_count"] or 0,
    )
    forward_ms = certificate["forward_ms"]
    training_ms = certificate["training_ms"]
    if forward_ms is not None:
        message.forward_ms = message.eager_forward_ms = forward_ms
        if training_ms is not None:
            message.backward_ms = message.eager_backward_ms = max(0.0, training_ms - forward_ms)
    if certificate["forward_flops"] is not None:
        message.flops = certificate["forward_flops"]
    if certificate["saved_bytes"] is not None:
        message.memory_bytes = certificate["saved_bytes"]
    return message


def compiled(answer: Answer, found: Compilation, artifact_sha256: str) -> KernelReady:
    """The message that a kernel has been compiled, or that it stays eager."""
    message = KernelReady(
        version=SCHEMA_VERSION,
        kernel_id=found.key,
        request_id=answer.request_id,
        blueprint_id=found.blueprint_id,
        interface=interface_message(answer.job.work.interface),
        certificate_key=found.certificate_key,
        artifact_sha256=bytes.fromhex(artifact_sha256),
        strategy=_WIRE[Strategy(found.strategy)] if found.kept else EAGER,
    )
    for name, forward_ms, training_ms in (
        ("", found.forward_ms, found.training_ms),
        ("eager_", found.eager_forward_ms, found.eager_training_ms),
    ):
        if forward_ms is not None and training_ms is not None:
            setattr(message, f"{name}forward_ms", forward_ms)
            setattr(message, f"{name}backward_ms", max(0.0, training_ms - forward_ms))
    if found.largest_difference is not None:
        message.largest_difference = found.largest_difference
    return message


def error(answer: Answer, reason: str) -> KernelError:
    """The message that there will be no such kernel."""
    return KernelError(
        version=SCHEMA_VERSION,
        request_id=answer.request_id,
        blueprint_id=answer.job.work.blueprint,
        interface=interface_message(answer.job.work.interface),
        strategy=EAGER,
        reason=reason,
        attempts=answer.job.attempts,
        retryable=False,
    )


def refusal(request: KernelRequest, reason: str) -> KernelError:
    """The message that a request can never be met."""
    return KernelError(
        version=SCHEMA_VERSION,
        request_id=request.request_id,
        blueprint_id=request.blueprint_id,
        interface=request.interface,
        reason=reason,
    )


def interface_message(interface: SiteInterface) -> SiteInterfaceMessage:
    """The interface as the contracts write it."""
    return SiteInterfaceMessage(
        kind=interface.kind,
        shape=list(interface.shape),
        dtype=interface.dtype,
        layout=interface.layout,
    )


def _release(version: str) -> str:
    """The public part of a torch version: 2.8.0 of 2.8.0+cu128."""
    return re.split(r"[+]", version)[0]


def _number(value: float) -> float:
    return int(value) if value.is_integer() else value
