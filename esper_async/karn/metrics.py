"""The names of Karn's metrics, once."""

from esper_async.runtime.metrics import Registry


class KarnMetrics:
    """Karn's metrics in one process's registry."""

    def __init__(self, registry: Registry) -> None:
        self.selection = registry.histogram(
            "karn.template.selection_ms", "Time to answer a catalogue query."
        )
        self.requests = registry.counter(
            "karn.blueprint.requests", "Blueprints handed out, by tier.", ["tier"]
        )
        self.conservative = registry.gauge(
            "karn.conservative_mode", "1 while only BP001 to BP010 are offered."
        )
