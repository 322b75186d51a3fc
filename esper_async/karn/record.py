"""What the catalogue holds about a blueprint. Torch-free; the records are generated."""

from dataclasses import dataclass
from typing import Literal

Tier = Literal["production", "experimental", "adversarial"]
Kind = Literal["spatial", "sequence", "feature"]
TIERS: tuple[Tier, ...] = ("production", "experimental", "adversarial")
KINDS: tuple[Kind, ...] = ("spatial", "sequence", "feature")


@dataclass(frozen=True, slots=True)
class ParameterRecord:
    """One whole-number parameter with its approved bounds, both included.

    `preset` is the default in words: a number, or the rule by which it follows the site.
    """

    name: str
    low: int
    high: int
    preset: str
    meaning: str
    odd: bool = False


@dataclass(frozen=True, slots=True)
class Approval:
    """Who let a blueprint into its tier, when (ISO date), and for what."""

    approved_by: str
    approved_on: str
    note: str


@dataclass(frozen=True, slots=True)
class Cost:
    """What a kernel costs at one interface, measured: parameters, and a sample's forward FLOPs."""

    parameters: int
    forward_flops: int


@dataclass(frozen=True, slots=True)
class Interface:
    """A site's interface as the catalogue needs it: its kind and its shape without the batch."""

    kind: Kind
    shape: tuple[int, ...]

    @property
    def channels(self) -> int:
        """Number of features at each position: C, D or F."""
        return self.shape[-1] if self.kind == "sequence" else self.shape[0]

    @property
    def positions(self) -> int:
        """Number of places that have features: H*W, T or 1."""
        if self.kind == "spatial":
            return self.shape[1] * self.shape[2]
        return self.shape[0] if self.kind == "sequence" else 1


@dataclass(frozen=True, slots=True)
class BlueprintRecord:
    """One of the fifty.

    `implemented` says whether there is a kernel; a record without one can be looked up but never
    chosen. `costs` hold what was measured at the reference interfaces; anywhere else the cost is
    what a certificate says, or not known.
    """

    id: str
    name: str
    tier: Tier
    stage: int
    risk: float
    description: str
    kinds: tuple[Kind, ...]
    approval: Approval
    implemented: bool
    output: Literal["change", "replacement"] | None = None
    parameters: tuple[ParameterRecord, ...] = ()
    least_channels: int = 1
    least_positions: int = 1
    most_positions: int | None = None
    code_hash: str | None = None
    costs: tuple[tuple[Interface, Cost], ...] = ()

    def fits(self, interface: Interface) -> bool:
        """Whether the blueprint can be planted at a site with this interface."""
        return (
            interface.kind in self.kinds
            and interface.channels >= self.least_channels
            and interface.positions >= self.least_positions
            and (self.most_positions is None or interface.positions <= self.most_positions)
        )

    def cost_at(self, interface: Interface) -> Cost | None:
        """Return the cost measured at a reference interface; None: not measured there."""
        return next((cost for at, cost in self.costs if at == interface), None)
