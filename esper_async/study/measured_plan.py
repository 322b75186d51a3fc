"""What plans have in common that are judged by a metric: which way it points, and their hash."""

import hashlib
import json

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
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
