"""All samples of a registry at one moment, by their exposed names."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from esper_async.nissa.metrics import Labels, Sample
from esper_async.runtime.metrics import Registry

SampleKind = Literal["counter", "gauge"]
_COUNTING = ("_total", "_count", "_sum", "_bucket")


@dataclass(frozen=True, slots=True)
class Reading:
    """Samples by exposed name; `counters` are the names whose values only ever grow."""

    samples: Mapping[str, list[Sample]]
    counters: frozenset[str]

    @classmethod
    def of(cls, registry: Registry) -> "Reading":
        """Read every metric once; may be called from any thread."""
        samples: dict[str, list[Sample]] = {}
        counters = set()
        for family in registry.collectors.collect():
            for sample in family.samples:
                if sample.name.endswith("_created"):
                    continue
                labels = tuple(sorted(sample.labels.items()))
                samples.setdefault(sample.name, []).append(Sample(labels, sample.value))
                if family.type != "gauge" and sample.name.endswith(_COUNTING):
                    counters.add(sample.name)
        return cls(samples, frozenset(counters))

    def kind(self, name: str) -> SampleKind:
        """Whether a name counts or shows a level."""
        return "counter" if name in self.counters else "gauge"

    def find(self, name: str, **labels: str) -> list[Sample]:
        """The samples of a name that have these labels, others besides."""
        wanted = set(labels.items())
        return [each for each in self.samples.get(name, ()) if wanted <= set(each.labels)]

    def total(self, name: str, **labels: str) -> float:
        """The sum of `find`; 0 where there is none: what was never counted has not happened."""
        return sum(each.value for each in self.find(name, **labels))


def label_of(labels: Labels, name: str) -> str:
    """A label's value, empty without it."""
    return dict(labels).get(name, "")


def levels(registry: Registry, *names: str) -> dict[str, list[Sample]]:
    """The values of single metrics by telemetry name, in its unit, without reading the others.

    A metric that nobody has made, or that has no value yet, is not in the answer.
    """
    found: dict[str, list[Sample]] = {}
    for name in names:
        metric = registry.find(name)
        samples = [] if metric is None else [Sample(*each) for each in metric.values()]
        if samples:
            found[name] = samples
    return found
