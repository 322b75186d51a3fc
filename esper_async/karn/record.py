"""What the catalogue holds about a blueprint. Torch-free; the records are generated."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from esper_async.karn.errors import QueryRefusedError

Tier = Literal["production", "experimental", "adversarial"]
Kind = Literal["spatial", "sequence", "feature"]
TIERS: tuple[Tier, ...] = ("production", "experimental", "adversarial")
KINDS: tuple[Kind, ...] = ("spatial", "sequence", "feature")
_SIZE = re.compile("[0-9]{1,9}")
_DIMENSIONS: dict[Kind, int] = {"spatial": 3, "sequence": 2, "feature": 1}


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
    """What a kernel costs at one interface, measured: parameters, and a sample's forward FLOPs.

    `training_ms` is a forward with its backward, of a certificate's batch on its machine; None
    where no certificate says it.
    """

    parameters: int
    forward_flops: int
    training_ms: float | None = None


@dataclass(frozen=True, slots=True)
class Interface:
    """A site's interface as the catalogue needs it: its kind and its shape without the batch."""

    kind: Kind
    shape: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> "Interface":
        """Read "spatial:8x1x40", "sequence:32x64" or "feature:64".

        Raises:
            QueryRefusedError: it is none of these.
        """
        kind, _, sizes = text.partition(":")
        shape = [int(size) for size in sizes.split("x") if _SIZE.fullmatch(size)]
        return interface_of(kind, shape if "x".join(map(str, shape)) == sizes else ())

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


def interface_of(kind: str, shape: Sequence[int]) -> Interface:
    """Return the interface of a kind and shape.

    Raises:
        QueryRefusedError: there is no such kind, or its shape has other dimensions.
    """
    for known in KINDS:
        if kind == known and len(shape) == _DIMENSIONS[known] and min(shape) >= 1:
            return Interface(known, tuple(shape))
    raise QueryRefusedError(
        f"no interface {kind!r} of shape {'x'.join(map(str, shape)) or 'unknown'}: expected "
        "spatial:CxHxW, sequence:TxD or feature:F"
    )


@dataclass(frozen=True, slots=True)
class BlueprintRecord:
    """One of the fifty.

    `costs` hold what was measured at the reference interfaces; anywhere else the cost is what a
    certificate says, or not known.
    """

    id: str
    name: str
    tier: Tier
    stage: int
    risk: float
    description: str
    kinds: tuple[Kind, ...]
    approval: Approval
    output: Literal["change", "replacement"]
    code_hash: str
    parameters: tuple[ParameterRecord, ...] = ()
    least_channels: int = 1
    least_positions: int = 1
    most_positions: int | None = None
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
