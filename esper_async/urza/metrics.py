"""The telemetry names of the library, said once."""

QUERY_DURATION_MS = "urza.query.duration_ms"
CACHE_HIT_RATIO = "urza.cache.hit_ratio"
ASSETS = "urza.assets"
INTEGRITY_FAILURES = "urza.integrity.failures"
BREAKER_STATE = "urza.breaker.state"
