"""The service level objectives: what each subsystem promises over thirty days, and its measure.

A measure reads how many events were good and how many there were, since this process began; an
objective whose subsystem has not been asked for anything is "not measured". What is no call of
anybody (a service being ready) is counted by looking: once per evaluation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from esper_async.leyline import LIMITS
from esper_async.nissa.reading import Reading

Kind = Literal["availability", "latency", "errors"]
WINDOW_DAYS = 30
Measure = Callable[[Reading], tuple[float, float]]
"""Returns (good events, all events), both counted since the process began."""


@dataclass(frozen=True, slots=True)
class Objective:
    """A promise: at least `target` of a subsystem's events are good.

    Without a `measure` it is about the service of that name being ready.
    """

    service: str
    kind: Kind
    target: float
    text: str
    measure: Measure | None = None

    @property
    def name(self) -> str:
        """Service and kind, as `oona/latency`."""
        return f"{self.service}/{self.kind}"


def _within(histogram: str, limit_s: str, **labels: str) -> Measure:
    """Observations of a histogram up to one of its own bucket limits."""

    def measure(reading: Reading) -> tuple[float, float]:
        good = reading.total(f"{histogram}_bucket", le=limit_s, **labels)
        return good, reading.total(f"{histogram}_count", **labels)

    return measure


def _without(bad: str, among: str, **labels: str) -> Measure:
    """Events of `among` less those of `bad`, a counter that counts the failed ones of them."""

    def measure(reading: Reading) -> tuple[float, float]:
        every = reading.total(among)
        return max(0.0, every - reading.total(bad, **labels)), every

    return measure


def _handled(reading: Reading) -> tuple[float, float]:
    good = reading.total("esper_oona_handled_total")
    return good, good + reading.total("esper_oona_dead_letters_total")


def _forged(reading: Reading) -> tuple[float, float]:
    """A blueprint that is refused by its proof is an answer; a job that broke is an error."""
    every = reading.total("esper_tezzeret_jobs_total")
    return every - reading.total("esper_tezzeret_jobs_total", result="failed"), every


def _taken(reading: Reading) -> tuple[float, float]:
    dropped = reading.total("esper_nissa_telemetry_dropped_total")
    good = reading.total("esper_nissa_telemetry_packets_total")
    return good, good + dropped


def _accepted(reading: Reading) -> tuple[float, float]:
    every = reading.total("esper_simic_experiences_total")
    return every - reading.total("esper_simic_experiences_total", result="rejected"), every


_BOUNDARIES = "esper_tolaria_boundary_duration_seconds"
_COUNTED = "esper_tolaria_boundary_duration_seconds_count"
_SERVICES = ("oona", "karn", "urza", "tezzeret", "tolaria", "kasmina", "tamiyo", "simic", "nissa")

OBJECTIVES: tuple[Objective, ...] = (
    *(Objective(name, "availability", 0.995, f"{name} is ready") for name in _SERVICES),
    Objective("oona", "latency", 0.99, "a publish is answered within 25 ms",
              _within("esper_oona_publish_latency_seconds", "0.025")),
    Objective("karn", "latency", 0.99, "a catalogue query is answered within 50 ms",
              _within("esper_karn_template_selection_seconds", "0.05")),
    Objective("urza", "latency", 0.99, "a query of the library is answered within 500 ms",
              _within("esper_urza_query_duration_seconds", "0.5")),
    Objective("tezzeret", "latency", 0.95, "a kernel is proved or compiled within 60 s",
              _within("esper_tezzeret_compilation_duration_seconds", "60.0")),
    Objective("tolaria", "latency", 0.99, f"a boundary takes at most {LIMITS.boundary_ms:g} ms",
              _within(_BOUNDARIES, "0.018", part="total")),
    Objective("kasmina", "latency", 0.99, "a command is applied within 2.5 ms",
              _within(_BOUNDARIES, "0.0025", part="apply")),
    Objective("tamiyo", "latency", 0.99, "a decision takes at most 18 ms",
              _within("esper_tamiyo_inference_latency_seconds", "0.018")),
    Objective("simic", "latency", 0.99, "a decision is stored as experience within 10 s",
              _within("esper_oona_consume_latency_seconds", "10.0", topic="decisions")),
    Objective("nissa", "latency", 0.99, "a request is answered within 250 ms",
              _within("esper_nissa_request_duration_seconds", "0.25")),
    Objective("oona", "errors", 0.999, "a message is handled, not set aside", _handled),
    Objective("tezzeret", "errors", 0.99, "a job of the forge does not break", _forged),
    Objective("tolaria", "errors", 0.99, "a boundary passes without an emergency",
              lambda reading: (
                  max(0.0, reading.total(_COUNTED, part="total")
                      - reading.total("esper_tolaria_emergency_count_total")),
                  reading.total(_COUNTED, part="total"),
              )),
    Objective("kasmina", "errors", 0.999, "a boundary passes without an isolation violation",
              lambda reading: (
                  max(0.0, reading.total(_COUNTED, part="total")
                      - reading.total("esper_kasmina_isolation_violations_total")),
                  reading.total(_COUNTED, part="total"),
              )),
    Objective("urza", "errors", 0.999, "a query finds nothing damaged",
              _without("esper_urza_integrity_failures_total",
                       "esper_urza_query_duration_seconds_count")),
    Objective("tamiyo", "errors", 0.99, "what a policy decides can be carried out",
              _without("esper_kasmina_commands_refused_total", "esper_tamiyo_decision_total",
                       reason="policy_asked_the_impossible")),
    Objective("simic", "errors", 0.999, "an experience is accepted", _accepted),
    Objective("nissa", "errors", 0.999, "telemetry is taken in", _taken),
)  # fmt: skip
