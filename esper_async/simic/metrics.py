"""The telemetry of the coach, named once."""

from esper_async.runtime.metrics import Registry

REPLAY_SIZE = "simic.replay.size"
POLICY_PUBLISHED = "simic.policy.published"
EXPERIENCES_TOTAL = "simic.experiences.total"


class CoachMetrics:
    """The coach's metrics in a process's registry."""

    def __init__(self, registry: Registry) -> None:
        self.size = registry.gauge(REPLAY_SIZE, "Experiences kept, by kind.", ["kind"])
        self.published = registry.counter(
            POLICY_PUBLISHED, "Updates told to the controller: what is active has changed."
        )
        self.experiences = registry.counter(
            EXPERIENCES_TOTAL, "Experiences that arrived, by what became of them.", ["result"]
        )
