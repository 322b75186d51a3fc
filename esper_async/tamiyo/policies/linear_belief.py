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
from typing import Any, ClassVar

import numpy as np

from esper_async.tamiyo.feature_versions import PLACEMENT_VERSION
from esper_async.tamiyo.offer import PLACEMENT_WIDTH, Floats
from esper_async.tamiyo.policies.learned import check_features

RIDGE = 1.0
NOISE_NATS = 0.02
"""The spread s where nothing has been measured yet."""
PESSIMISM = 1.0
"""β: standard errors that are taken off an estimate."""
EXPLORATION = 0.1
"""Share of the choices that is spread evenly over all placements."""


@dataclass(frozen=True, slots=True, eq=False)
class LinearBelief:
    """Λ (W, W), Σ φr (W,) and s, in nats (or the loss's unit)."""

    kind: ClassVar[str] = "bandit"

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

    def probabilities(self, features: Floats) -> Floats:
        """Return (P,), how likely each placement of features (P, W) is planted."""
        found: Floats = np.full(len(features), EXPLORATION / len(features))
        found[self.lower_bounds(features, pessimism=PESSIMISM).argmax()] += 1.0 - EXPLORATION
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
            ValueError: it is no belief.
        """
        check_features(data["features"])
        precision = np.array(data["precision"], dtype=np.float64)
        weighted, noise = np.array(data["weighted"], dtype=np.float64), float(data["noise"])
        if precision.shape != (PLACEMENT_WIDTH,) * 2 or weighted.shape != (PLACEMENT_WIDTH,):
            raise ValueError(f"a belief of shapes {precision.shape} and {weighted.shape}")
        if not all(np.isfinite(each).all() for each in (precision, weighted, noise)):
            raise ValueError("a figure of the belief is not finite")
        return cls(precision, weighted, noise)


def load_belief(path: Path) -> LinearBelief:
    """Read what `save_learned` wrote of a belief.

    Raises:
        FeatureVersionError: it is about features of another version.
        OSError: it cannot be read.
    """
    return LinearBelief.from_json(json.loads(path.read_text()))
