"""What a blueprint declares: what it is, where it fits, and what may be set about it."""

from dataclasses import dataclass
from typing import Literal

from esper_async.kasmina.interface import InterfaceKind, SiteInterface
from esper_async.kasmina.kernels.setting import Setting

Output = Literal["change", "replacement"]
Tier = Literal["production", "experimental", "adversarial", "planted"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Blueprint:
    """One kind of kernel.

    A "change" is added to the site's activation and starts at zero, a "replacement" takes its place
    and starts near it. `risk` runs from 0 to 1, `stage` is a grade of complexity. An exemption says
    in words why a kernel cannot show a gradient in every tensor, or a quiet start.
    """

    id: str
    name: str
    stage: int
    risk: float
    output: Output
    description: str
    kinds: tuple[InterfaceKind, ...]
    tier: Tier = "production"
    settings: tuple[Setting, ...] = ()
    least_channels: int = 1
    least_positions: int = 1
    most_positions: int | None = None
    gradient_exemption: str | None = None
    start_exemption: str | None = None

    def misfit(self, site: SiteInterface) -> str | None:
        """Say why this blueprint cannot be planted at `site`; None when it can."""
        if site.kind not in self.kinds:
            return f"it takes {' or '.join(self.kinds)} interfaces, not {site.kind}"
        if site.channels < self.least_channels:
            return f"it needs at least {self.least_channels} channels, not {site.channels}"
        count = positions(site)
        if count < self.least_positions:
            return f"it needs at least {self.least_positions} positions, not {count}"
        if self.most_positions is not None and count > self.most_positions:
            return f"it takes at most {self.most_positions} positions, not {count}"
        return None


def positions(site: SiteInterface) -> int:
    """Count the places at which a site has channels: H*W, T, or 1."""
    if site.kind == "spatial":
        return site.shape[1] * site.shape[2]
    return site.shape[0] if site.kind == "sequence" else 1
