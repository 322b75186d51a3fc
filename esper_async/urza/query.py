"""What the catalogue can be asked, and what stands in when it has no answer."""

from collections.abc import Iterator
from dataclasses import dataclass

from esper_async.urza.records import SERVED, Asset, Lifecycle

IDENTITY = "BP001"
"""The blueprint that changes nothing: what is chosen when nothing safe can be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """What an asset must be; what is None is not asked for.

    `most_stage`, `most_risk`, `most_parameters`, `most_flops` (of one sample's forward pass) and
    `most_latency_ms` are budgets, each included. An asset of which the figure was never measured is
    within no budget. `in_force` leaves out what is draft or withdrawn.
    """

    kind: str | None = None
    tag: str | None = None
    blueprint: str | None = None
    interface: str | None = None
    lifecycle: Lifecycle | None = None
    in_force: bool = False
    tier: str | None = None
    stage: int | None = None
    most_stage: int | None = None
    most_risk: float | None = None
    most_parameters: float | None = None
    most_flops: float | None = None
    most_latency_ms: float | None = None

    def texts(self) -> Iterator[tuple[str, str]]:
        """Columns that must equal a text, the most telling first."""
        names = ("interface", "blueprint", "tier", "kind", "lifecycle")
        for name in names:
            value = getattr(self, name)
            if value is not None:
                yield name, str(value)

    def budgets(self) -> Iterator[tuple[str, float]]:
        """Columns that must not exceed a number."""
        named = (
            ("stage", self.most_stage),
            ("risk", self.most_risk),
            ("parameters", self.most_parameters),
            ("flops", self.most_flops),
            ("latency_ms", self.most_latency_ms),
        )
        yield from ((name, most) for name, most in named if most is not None)

    def admits(self, asset: Asset) -> bool:
        """Whether the asset is what is asked for."""
        return (
            all(str(getattr(asset, name)) == value for name, value in self.texts())
            and (self.tag is None or self.tag in asset.tags)
            and (self.stage is None or self.stage == asset.stage)
            and (not self.in_force or asset.lifecycle in SERVED)
            and all(_within(getattr(asset, name), most) for name, most in self.budgets())
        )


@dataclass(frozen=True, slots=True)
class Choice:
    """The blueprint to use, with its asset; without one it is the identity, and `reason` is why."""

    blueprint: str
    asset: Asset | None
    reason: str = ""


def _within(value: float | None, most: float) -> bool:
    return value is not None and value <= most
