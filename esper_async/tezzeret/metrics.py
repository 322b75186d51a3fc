"""The telemetry of the forge, named once."""

from esper_async.runtime.metrics import Registry

COMPILATION_DURATION_MS = "tezzeret.compilation.duration_ms"
QUEUE_DEPTH = "tezzeret.queue.depth"
JOBS_TOTAL = "tezzeret.jobs.total"
CONSERVATIVE_MODE = "tezzeret.conservative_mode"


class ForgeMetrics:
    """The forge's metrics in a process's registry."""

    def __init__(self, registry: Registry) -> None:
        self.duration = registry.histogram(
            COMPILATION_DURATION_MS, "Time of one job, by strategy.", ["strategy"]
        )
        self.depth = registry.gauge(QUEUE_DEPTH, "Jobs that wait or run.")
        self.jobs = registry.counter(JOBS_TOTAL, "Jobs that ended, by result.", ["result"])
        self.conservative = registry.gauge(
            CONSERVATIVE_MODE, "1 while no worker can be started, or no compiler is there."
        )
