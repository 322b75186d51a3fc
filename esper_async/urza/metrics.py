"""The telemetry of the library, named once."""

from esper_async.runtime.metrics import Registry

QUERY_DURATION_MS = "urza.query.duration_ms"
CACHE_HIT_RATIO = "urza.cache.hit_ratio"
ASSETS = "urza.assets"
INTEGRITY_FAILURES = "urza.integrity.failures"


class LibraryMetrics:
    """The library's metrics in a process's registry; fits `Library`'s callbacks."""

    def __init__(self, registry: Registry) -> None:
        self._duration = registry.histogram(QUERY_DURATION_MS, "Time of a call that went to disk.")
        self._hit_ratio = registry.gauge(CACHE_HIT_RATIO, "Share of reads answered from memory.")
        self._assets = registry.gauge(ASSETS, "Versions in the catalogue.", ["lifecycle"])
        self._failures = registry.counter(INTEGRITY_FAILURES, "Damage found.", ["what"])

    def queried(self, elapsed_ms: float) -> None:
        """A call went to disk."""
        self._duration.observe(elapsed_ms)

    def damaged(self, what: str) -> None:
        """A blob, a row or the catalogue was found damaged."""
        self._failures.add(1, what=what)

    def counted(self, by_lifecycle: dict[str, int], hit_ratio: float | None) -> None:
        """The catalogue was counted; a ratio of no reads at all is not shown."""
        for lifecycle, count in by_lifecycle.items():
            self._assets.set(count, lifecycle=lifecycle)
        if hit_ratio is not None:
            self._hit_ratio.set(hit_ratio)
