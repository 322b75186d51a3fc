"""What came of compiling a kernel: how it compares with the eager one, and whether it is kept.

Torch-free: the supervisor reads and tells it.
"""

import json
from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import Any

COMPILATION_SCHEMA = 1


class Strategy(StrEnum):
    """How much is tried. EMERGENCY compiles nothing: the kernel stays eager, and says so."""

    EMERGENCY = "emergency"
    FAST = "fast"
    STANDARD = "standard"
    AGGRESSIVE = "aggressive"


LADDER = (Strategy.AGGRESSIVE, Strategy.STANDARD, Strategy.FAST, Strategy.EMERGENCY)
"""From the most to the least; what has failed twice goes on one step down."""
FAILURES_A_STEP = 2


def stepped_down(asked: Strategy, failures: int, *, conservative: bool = False) -> Strategy:
    """Return what is tried after so many failed attempts; AGGRESSIVE is off when conservative."""
    first = LADDER.index(asked)
    if conservative:
        first = max(first, LADDER.index(Strategy.STANDARD))
    return LADDER[min(first + failures // FAILURES_A_STEP, len(LADDER) - 1)]


def attempts_of(asked: Strategy) -> int:
    """Return after how many failed attempts every step, the last one too, has had its share."""
    return FAILURES_A_STEP * (len(LADDER) - LADDER.index(asked))


@dataclass(frozen=True, slots=True, kw_only=True)
class Compilation:
    """The record of one kernel, compiled for one batch size and thread count.

    `kept` says that the compiled one is used; else `reason` says why not. Quantities that were
    never measured are None. Milliseconds are of a batch: `training_ms` of a forward with its
    backward pass. `ratio` is compiled over eager, the median of the rounds, `ratio_high` the upper
    end of its interval. `largest_difference` is that from eager, of answers and gradients,
    relative to their largest value.
    """

    key: str
    certificate_key: str
    blueprint_id: str
    interface: str
    settings: dict[str, int]
    batch: int
    threads: int
    strategy: str
    kept: bool
    reason: str
    torch_version: str
    eager_forward_ms: float | None = None
    eager_training_ms: float | None = None
    forward_ms: float | None = None
    training_ms: float | None = None
    ratio: float | None = None
    ratio_high: float | None = None
    largest_difference: float | None = None
    compile_ms: float | None = None
    schema: int = COMPILATION_SCHEMA

    def to_json(self) -> str:
        """Return the record as one line of JSON with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> "Compilation":
        """Read back what `to_json` wrote.

        Raises:
            ValueError: it is no JSON object, of another schema, or lacks or adds a field.
        """
        record: Any = json.loads(text)
        if not isinstance(record, dict) or record.get("schema") != COMPILATION_SCHEMA:
            raise ValueError(f"no record of a compilation of schema {COMPILATION_SCHEMA}")
        odd = {field.name for field in fields(cls)} ^ set(record)
        if odd:
            raise ValueError(f"a record with missing or unknown fields: {', '.join(sorted(odd))}")
        return cls(**record)
