"""What a kernel must know about the place it is planted: the interface of a site."""

from dataclasses import dataclass
from typing import Literal

InterfaceKind = Literal["spatial", "sequence", "feature"]
Layout = Literal["contiguous", "channels_last"]
_RANK: dict[str, int] = {"spatial": 3, "sequence": 2, "feature": 1}


@dataclass(frozen=True, slots=True)
class SiteInterface:
    """Shape, dtype and memory layout of the activation at a site, batch dimension excluded.

    `shape` is (C, H, W) for "spatial", (T, D) for "sequence" and (F,) for "feature".
    """

    kind: InterfaceKind
    shape: tuple[int, ...]
    dtype: str = "float32"
    layout: Layout = "contiguous"

    def __post_init__(self) -> None:
        if self.kind not in _RANK:
            raise ValueError(f"interface kind {self.kind!r} is none of {sorted(_RANK)}")
        if len(self.shape) != _RANK[self.kind]:
            raise ValueError(
                f"a {self.kind} interface has {_RANK[self.kind]} dimensions, not {self.shape}"
            )
        if any(size < 1 for size in self.shape):
            raise ValueError(f"every dimension of {self.shape} must be at least 1")

    @property
    def channels(self) -> int:
        """Number of features at each position: C, D or F."""
        return self.shape[-1] if self.kind == "sequence" else self.shape[0]

    @property
    def key(self) -> str:
        """A short stable text for file names and certificate keys."""
        sizes = "x".join(str(size) for size in self.shape)
        return f"{self.kind}-{sizes}-{self.dtype}-{self.layout}"
