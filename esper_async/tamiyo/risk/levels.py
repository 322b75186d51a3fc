"""The five levels of risk, and what each lets happen."""

from enum import IntEnum


class RiskLevel(IntEnum):
    """How much is at risk; the numbers are those of the `RiskLevel` contract.

    GREEN: act. YELLOW: act with a mitigation. ORANGE: only the safest alternative. RED: refuse, and
    pause the seeds, never the run. CRITICAL: an emergency.
    """

    GREEN = 1
    YELLOW = 2
    ORANGE = 3
    RED = 4
    CRITICAL = 5
