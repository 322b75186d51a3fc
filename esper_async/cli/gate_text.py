"""What the gate found of a policy, as lines for people."""

from collections.abc import Mapping
from typing import Any


def record_lines(record: Mapping[str, Any]) -> list[str]:
    """Return what runs that were made say, what fresh ones say, and whether the two agree."""
    return [
        *_estimated(record["estimate"]),
        *_replayed(record["replay"]),
        *_held_against_the_truth(record["calibration"]),
    ]


def _estimated(found: Mapping[str, Any] | None) -> list[str]:
    if found is None:
        return []
    if found["refusals"]:
        return [
            "by runs that were made nothing can be said of it:",
            *(f"  {why}" for why in found["refusals"]),
        ]
    return [
        f"a decision earns {found['value']:+.3f} of reward above the active policy's "
        f"[{found['low']:+.3f}, {found['high']:+.3f}], by {found['trials']} placements of "
        f"{found['runs']} other runs"
    ]


def _replayed(found: Mapping[str, Any] | None) -> list[str]:
    if found is None or found["difference"] is None:
        return []
    difference, chance = found["difference"], found["chance"]
    return [
        f"fresh runs are {difference['value']:+.4f} above those under the active policy "
        f"[{difference['low']:+.4f}, {difference['high']:+.4f}], better in "
        f"{chance['value']:.0%}, by {len(found['pairs'])} pairs"
    ]


def _held_against_the_truth(found: Mapping[str, Any] | None) -> list[str]:
    if found is None or found["within"] is None:
        return []
    where = "within" if found["within"] else "outside"
    return [f"a decision of theirs was paid {found['measured']:+.3f} more: {where} the estimate"]
