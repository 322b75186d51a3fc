"""Write `docs/metrics.md`: every metric that an Esper exposes, from where each is named.

python docs/metric_list.py
"""

from collections.abc import Iterator
from pathlib import Path

from esper_async.karn.metrics import KarnMetrics
from esper_async.nissa.metrics import NissaMetrics
from esper_async.nissa.telemetry_names import KNOWN
from esper_async.oona.metrics import BusMetrics
from esper_async.runtime.breakers import Breakers
from esper_async.runtime.clock import SystemClock
from esper_async.runtime.disk import DiskLimits
from esper_async.runtime.metrics import Registry, prometheus_name
from esper_async.simic.learning import LearningMetrics
from esper_async.simic.metrics import CoachMetrics
from esper_async.supervisor.app import Supervisor
from esper_async.supervisor.disk_keeper import DiskKeeper
from esper_async.supervisor.settings import Settings
from esper_async.tamiyo.policy_intake import updates_metric
from esper_async.tamiyo.service import hub_metrics
from esper_async.tezzeret.metrics import ForgeMetrics
from esper_async.urza.metrics import LibraryMetrics

PAGE = Path(__file__).parent / "metrics.md"
_BREAKERS = ("karn", "urza", "tezzeret", "simic", "nissa", "tolaria", "kasmina", "tamiyo")
_PROLOGUE = """# Every metric

Written by `python docs/metric_list.py`; [observability.md](observability.md) is how to use them.

A histogram has `_bucket`, `_sum` and `_count`. What is counted or measured under a label shows a
series once it has happened, but for what a run may count and has not: `cause`, `level`, `part` and
`reason` of rollbacks, emergencies, budgets and refused commands begin at 0 with the run.

Simic's `training_*` have series while `python -m esper_async.simic.teach` learns, and for a quarter
of an hour after it. `esper_tolaria_training_accuracy` is that of one step, in training mode: noisy,
but a trend beside `esper_tolaria_validation_accuracy`. It is there where the task has a function
called `accuracy` among its metrics, and a training loader with a length.
"""


def declared() -> Registry:
    """Return a registry with every metric, made as its part makes it; none has a value yet."""
    registry = Supervisor(Settings()).registry
    BusMetrics(registry)
    KarnMetrics(registry)
    LibraryMetrics(registry)
    ForgeMetrics(registry)
    CoachMetrics(registry)
    LearningMetrics(registry)
    NissaMetrics(registry)
    hub_metrics(registry)
    updates_metric(registry)
    DiskKeeper(
        Path(),
        DiskLimits(0, 0),
        log_limit_bytes=0,
        every_s=1.0,
        clock=SystemClock(),
        registry=registry,
    )
    for part in _BREAKERS:
        Breakers(part, registry=registry)
    for name, known in KNOWN.items():
        make = {
            "counter": registry.counter, "gauge": registry.gauge, "histogram": registry.histogram,
        }[known.kind]  # fmt: skip
        make(name, known.text, known.labels)
    return registry


def page() -> str:
    """Return the page: a table for each part."""
    registry = declared()
    names = sorted(registry.names())
    parts = sorted({name.partition(".")[0] for name in names})
    return "\n".join([_PROLOGUE, *(line for part in parts for line in _table(registry, part))])


def _table(registry: Registry, part: str) -> Iterator[str]:
    texts = {family.name: family.documentation for family in registry.collectors.collect()}
    yield f"## {part.capitalize()}\n"
    yield "| metric | kind | labels | what |\n|---|---|---|---|"
    for name in sorted(registry.names()):
        if not name.startswith(f"{part}."):
            continue
        metric, kind = registry.find(name), registry.kind_of(name)
        assert metric is not None
        assert kind is not None
        exposed = prometheus_name(name, kind)
        labels = ", ".join(f"`{label}`" for label in metric.label_names)
        text = texts[exposed.removesuffix("_total") if kind == "counter" else exposed]
        yield f"| `{exposed}` | {kind} | {labels} | {text.rstrip('.')} |"
    yield ""


if __name__ == "__main__":
    PAGE.write_text(page())
