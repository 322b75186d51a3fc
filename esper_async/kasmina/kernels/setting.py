"""What may be set about a kernel: approved bounds, and defaults that follow the site."""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches

from esper_async.kasmina.interface import SiteInterface


class SettingRefusedError(ValueError):
    """A kernel was asked for with a parameter that its blueprint does not approve."""


@dataclass(frozen=True, slots=True)
class Widened:
    """A default that grows with the site's channels but gives a narrow host room as well."""

    factor: int
    floor: int

    def at(self, site: SiteInterface) -> int:
        """Return the default for `site`."""
        return max(self.floor, self.factor * site.channels)

    def __str__(self) -> str:
        return f"max({self.floor}, {self.factor} x channels)"


@dataclass(frozen=True, slots=True)
class LineOrPlane:
    """A default that is wider where the site's positions form a line than where they form a plane.

    A line of k taps costs what a plane of k x k does not, so it can see further for the same price.
    """

    line: int
    plane: int

    def at(self, site: SiteInterface) -> int:
        """Return the default for `site`."""
        flat = site.kind != "spatial" or 1 in site.shape[1:]
        return self.line if flat else self.plane

    def __str__(self) -> str:
        return f"{self.line} on a line, {self.plane} on a plane"


@dataclass(frozen=True, slots=True)
class Setting:
    """One whole-number parameter of a blueprint with its approved bounds, both included."""

    name: str
    low: int
    high: int
    default: int | Widened | LineOrPlane
    meaning: str
    odd: bool = False

    def default_at(self, site: SiteInterface) -> int:
        """Return the value used at `site` when nothing is asked for."""
        if isinstance(self.default, int):
            return self.default
        return min(self.high, max(self.low, self.default.at(site)))

    def check(self, value: object) -> int:
        """Return `value` if it is approved.

        Raises:
            SettingRefusedError: it is no whole number, out of bounds, or even where odd is needed.
        """
        wanted = f"{'an odd' if self.odd else 'a'} whole number from {self.low} to {self.high}"
        if isinstance(value, bool) or not isinstance(value, int):
            raise SettingRefusedError(f"{self.name} = {value!r}: expected {wanted}")
        if not self.low <= value <= self.high or (self.odd and value % 2 == 0):
            raise SettingRefusedError(f"{self.name} = {value}: expected {wanted}")
        return value


def resolve(
    settings: tuple[Setting, ...], asked: Mapping[str, object], site: SiteInterface
) -> dict[str, int]:
    """Return every setting's value at `site`: what was asked for, else the default.

    Raises:
        SettingRefusedError: an unknown name (the nearest known one is named) or a refused value.
    """
    known = {setting.name: setting for setting in settings}
    for name in asked:
        if name not in known:
            near = get_close_matches(name, known, n=1, cutoff=0.0)
            hint = f"; the nearest is {near[0]!r}" if near else "; it has none"
            raise SettingRefusedError(f"unknown parameter {name!r}{hint}")
    return {
        name: setting.check(asked[name]) if name in asked else setting.default_at(site)
        for name, setting in known.items()
    }


# The settings that many kernels share.
WIDTH = Setting("width", 4, 1024, Widened(1, 64), "hidden channels")
KERNEL_SIZE = Setting(
    "kernel_size",
    1,
    11,
    LineOrPlane(5, 3),
    "taps along each axis with more than one place",
    odd=True,
)
