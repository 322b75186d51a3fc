"""The forge's settings."""

import os
from dataclasses import dataclass, field
from typing import Any

_MOST_WORKERS = 4


def workers_for(cores: int) -> int:
    """One worker for every four cores, at least one and at most four."""
    return min(max(cores // 4, 1), _MOST_WORKERS)


@dataclass(frozen=True, slots=True)
class ForgeSettings:
    """Limits of the forge; durations in seconds.

    A worker that has had nothing to do for `idle_s` is stopped. Every `recheck_s` the forge looks
    whether the library has lost something. Interfaces that nobody has asked about for
    `remember_s` are left alone. After a failure that is no job's fault it waits `retry_s`.
    `nice` is the workers' priority; 19 is the lowest there is. A worker may take `memory_bytes`
    beyond what torch has taken; no file that it writes may be longer than `output_bytes`.
    """

    job_limit_s: float = 60.0
    compile_limit_s: float = 240.0
    start_limit_s: float = 120.0
    memory_bytes: int = 2 << 30
    output_bytes: int = 1 << 30
    workers: int = field(default_factory=lambda: workers_for(os.cpu_count() or 1))
    max_attempts: int = 3
    idle_s: float = 30.0
    recheck_s: float = 300.0
    remember_s: float = 30 * 86_400.0
    retry_s: float = 5.0
    nice: int = 19

    @classmethod
    def configured(
        cls, *, workers: int, memory_mb: int, output_mb: int, **limits: Any
    ) -> "ForgeSettings":
        """Return the settings of a configuration: 0 `workers` are as many as the cores are for."""
        return cls(
            workers=workers or workers_for(os.cpu_count() or 1),
            memory_bytes=memory_mb << 20,
            output_bytes=output_mb << 20,
            **limits,
        )
