"""Drawing placements at random, from a stream that can be saved and restored."""

import random
import struct
from collections.abc import Sequence
from typing import Any

from esper_async.tamiyo.view import Placement

_WORDS = "<625I"
"""What a Mersenne Twister is: 624 words and a place among them."""


class Draw:
    """A policy's own random numbers."""

    def __init__(self, seed: int, purpose: str) -> None:
        self._random = random.Random(f"{seed}/{purpose}")  # noqa: S311 - not for secrets

    def sample(self, placements: Sequence[Placement], count: int) -> list[Placement]:
        """Draw `count` different placements, or all if there are fewer."""
        return self._random.sample(list(placements), min(count, len(placements)))

    def choice(self, names: Sequence[str]) -> str:
        """Draw one of `names`."""
        return self._random.choice(names)

    def uniform(self) -> float:
        """Draw a number of [0, 1)."""
        return self._random.random()

    def weighted(
        self, placements: Sequence[Placement], weights: Sequence[float], count: int
    ) -> list[Placement]:
        """Draw `count` different placements with probabilities in proportion to `weights` (> 0).

        Each waits for an exponential time of rate `weight`; the first to come are drawn (Efraimidis
        and Spirakis 2006, "Weighted random sampling with a reservoir").
        """
        waits = [self._random.expovariate(weight) for weight in weights]
        order = sorted(range(len(placements)), key=waits.__getitem__)
        return [placements[index] for index in order[:count]]

    def state_dict(self) -> dict[str, Any]:
        """Return the stream's state."""
        version, internal, gauss = self._random.getstate()
        words = struct.pack(_WORDS, *internal).hex()  # one text is quicker to save than 625 numbers
        return {"version": version, "internal": words, "gauss": gauss}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        internal = struct.unpack(_WORDS, bytes.fromhex(state["internal"]))
        self._random.setstate((state["version"], internal, state["gauss"]))
