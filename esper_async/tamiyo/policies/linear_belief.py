"""What is believed of placements: ridge regression, and bounds on what it says.

    precision  Λ = λI + Σ φφᵀ        weights  w = Λ⁻¹ Σ φr
    bound      φᵀw - β s (φᵀΛ⁻¹φ)^½

These are Λ, ŵ and Γ of Jin, Yang and Wang 2021, "Is Pessimism Provably Efficient for Offline RL?",
Algorithm 2 with horizon 1, and LinUCB (Li et al. 2010, Algorithm 1) with the sign of the bonus
turned round; s is the spread of what a placement brings about what its features say.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from esper_async.tamiyo.offer import PLACEMENT_VERSION, PLACEMENT_WIDTH, Floats
from esper_async.tamiyo.policies.learned import check_features

RIDGE = 1.0
NOISE_NATS = 0.02
"""The spread s where nothing has been measured yet."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearBelief:
    """Λ (W, W), Σ φr (W,) and s, in nats (or the loss's unit)."""

    precision: Floats
    weighted: Floats
    noise: float = NOISE_NATS

    @classmethod
    def blank(cls) -> "LinearBelief":
        """Return what is believed before anything was seen: every placement brings nothing."""
        return cls(RIDGE * np.eye(PLACEMENT_WIDTH), np.zeros(PLACEMENT_WIDTH))

    @property
    def weights(self) -> Floats:
        """The estimate of each feature's worth (W,)."""
        return np.asarray(np.linalg.solve(self.precision, self.weighted), dtype=np.float64)

    def lower_bounds(self, features: Floats, *, pessimism: float) -> Floats:
        """Return (P,) for features (P, W): estimate less `pessimism` standard errors."""
        spread = np.einsum("pw,wp->p", features, np.linalg.solve(self.precision, features.T))
        found: Floats = features @ self.weights - pessimism * self.noise * np.sqrt(spread)
        return found

    def after(self, features: Floats, outcome: float) -> "LinearBelief":
        """Return the belief once a placement with features (W,) has brought `outcome`."""
        return LinearBelief(
            self.precision + np.outer(features, features),
            self.weighted + outcome * features,
            self.noise,
        )

    def to_json(self) -> dict[str, Any]:
        """Return the belief as JSON values, with the version of the features it is about."""
        return {
            "features": PLACEMENT_VERSION,
            "precision": self.precision.tolist(),
            "weighted": self.weighted.tolist(),
            "noise": self.noise,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "LinearBelief":
        """Read what `to_json` wrote.

        Raises:
            FeatureVersionError: it is about features of another version.
        """
        check_features(data["features"])
        return cls(np.array(data["precision"]), np.array(data["weighted"]), float(data["noise"]))


def load_belief(path: Path) -> LinearBelief:
    """Read what `save_learned` wrote of a belief.

    Raises:
        FeatureVersionError: it is about features of another version.
        OSError: it cannot be read.
    """
    return LinearBelief.from_json(json.loads(path.read_text()))
