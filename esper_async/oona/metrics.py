"""Everything the bus measures, named once."""

from esper_async.runtime.breakers import Breakers
from esper_async.runtime.metrics import Registry


class BusMetrics:
    """The bus's metrics in one registry; a child process has its own."""

    def __init__(self, registry: Registry | None = None) -> None:
        self.registry = Registry() if registry is None else registry
        counter, gauge = self.registry.counter, self.registry.gauge
        histogram = self.registry.histogram
        self.published = counter("oona.published", "Messages Redis has taken.", ("topic",))
        self.publish_latency = histogram(
            "oona.publish.latency_ms", "From publish to Redis's answer.", ("topic",)
        )
        self.consume_latency = histogram(
            "oona.consume.latency_ms",
            "From publishing to the acknowledgement, of the oldest that go together.",
            ("topic",),
        )
        self.depth = gauge(
            "oona.queue.depth", "Entries required groups have still to acknowledge.", ("topic",)
        )
        self.dropped = counter(
            "oona.publish.dropped", "Messages dropped before Redis.", ("priority", "reason")
        )
        self.rerouted = counter(
            "oona.publish.rerouted", "Messages that ride the emergency lane.", ("topic",)
        )
        self.refused = counter("oona.refused", "Messages refused on arrival.", ("topic", "reason"))
        self.handled = counter("oona.handled", "Messages handled.", ("topic", "group"))
        self.retried = counter("oona.retried", "Handlings that failed.", ("topic", "group"))
        self.duplicates = counter("oona.duplicates", "Repeats absorbed.", ("topic", "group"))
        self.gaps = counter(
            "oona.sequence.gaps",
            "Messages of a producer that were passed over, in a group of one consumer.",
            ("topic", "group"),
        )
        self.late = counter(
            "oona.sequence.late",
            "Messages that came behind a later one of their producer.",
            ("topic", "group"),
        )
        self.claimed = counter(
            "oona.claimed", "Entries taken over from dead consumers.", ("topic", "group")
        )
        self.dead_letters = counter(
            "oona.dead_letters", "Messages set aside as undeliverable.", ("topic", "group")
        )
        self.dead_letters_trimmed = counter(
            "oona.dead_letters.trimmed", "Dead letters the janitor threw away, unread.", ("kind",)
        )
        self.trimmed = counter("oona.trimmed", "Entries the janitor removed.", ("topic",))
        self.evicted = counter(
            "oona.groups.evicted", "Optional groups evicted for their lag.", ("topic", "group")
        )
        self.reconnects = counter("oona.reconnects", "Times Redis had to be sought.", ("role",))
        self.courier_rounds = counter("oona.courier.rounds", "Turns of carrying a spool.")
        self.spool_depth = gauge(
            "oona.spool.depth", "Durable messages not yet acknowledged.", ("producer",)
        )
        self.republished = counter(
            "oona.spool.republished", "Durable messages sent again as the server lost data."
        )
        self.breakers = Breakers("oona", registry=self.registry)
        self.conservative = gauge(
            "oona.conservative_mode", "1 while low priority is shed.", ("topic",)
        )

    def value(self, name: str, **labels: str) -> float:
        """Return an exposed sample, say `esper_oona_handled_total`; 0.0 when there is none."""
        return self.registry.collectors.get_sample_value(name, labels) or 0.0
