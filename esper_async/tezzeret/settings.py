"""The forge's settings."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ForgeSettings:
    """Limits of the forge; durations in seconds.

    A worker that has had nothing to do for `idle_s` is stopped. Every `recheck_s` the forge looks
    whether the library has lost something. Interfaces that nobody has asked about for
    `remember_s` are left alone. After a failure that is no job's fault it waits `retry_s`.
    `nice` is the worker's priority; 19 is the lowest there is.
    """

    job_limit_s: float = 60.0
    start_limit_s: float = 120.0
    memory_bytes: int = 2 << 30
    max_attempts: int = 3
    idle_s: float = 30.0
    recheck_s: float = 300.0
    remember_s: float = 30 * 86_400.0
    retry_s: float = 5.0
    nice: int = 19
