"""The telemetry of the coach, named once."""

from esper_async.runtime.metrics import Registry

REPLAY_SIZE = "simic.replay.size"
EXPERIENCES_TOTAL = "simic.experiences.total"


class CoachMetrics:
    """The coach's metrics in a process's registry."""

    def __init__(self, registry: Registry) -> None:
        self.size = registry.gauge(REPLAY_SIZE, "Experiences kept, by kind.", ["kind"])
        self.experiences = registry.counter(
            EXPERIENCES_TOTAL, "Experiences that arrived, by what became of them.", ["result"]
        )
