"""What plans have in common that are judged by a metric: which way it points, and their hash."""

import hashlib
import json
from collections.abc import Collection

from esper_async.runtime.strict_model import StrictModel


class MeasuredPlan(StrictModel):
    """A plan whose `primary` metric decides; "loss" is the only one that is better smaller."""

    primary: str

    @property
    def larger_is_better(self) -> bool:
        """Which way the primary metric points."""
        return self.primary != "loss"

    @property
    def hash(self) -> str:
        """SHA-256 of all that the plan says."""
        return hash_of(self)


def hash_of(plan: StrictModel, *, exclude: Collection[str] = ()) -> str:
    """Return the SHA-256 of all that a plan says, but for some of its fields."""
    document = plan.model_dump(mode="json", exclude=set(exclude))
    text = json.dumps(document, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
