"""From the bus's messages to the forge's work, and from its results to messages."""

import re
from collections.abc import Mapping
from typing import Any

from esper_async.kasmina.interface import SiteInterface
from esper_async.leyline import (
    SCHEMA_VERSION,
    CompileStrategy,
    KernelError,
    KernelReady,
    KernelRequest,
)
from esper_async.leyline import SiteInterface as SiteInterfaceMessage
from esper_async.tezzeret.job import Answer, JobKind, Work, interface_from_dict

EAGER = CompileStrategy.COMPILE_STRATEGY_EMERGENCY
"""The strategy of a kernel that is not compiled."""


class RequestRefusedError(Exception):
    """A kernel request that can never be met; the message says why."""


def work_of(request: KernelRequest, *, fingerprint: str, torch_version: str) -> Work:
    """What a request asks for; without a blueprint it asks which ones fit the interface.

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
    return Work(
        kind=JobKind.PROVE if request.blueprint_id else JobKind.SURVEY,
        interface=interface,
        fingerprint=fingerprint,
        blueprint=request.blueprint_id,
        settings={name: _number(value) for name, value in sorted(request.parameters.items())},
        device=request.device or "cpu",
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
