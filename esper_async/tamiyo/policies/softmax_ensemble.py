"""Which placement to plant, as a softmax over their features, by members that may disagree.

    member     s_k(a) = θ_k · (φ(a) - r)        r: the mean of what was tried
    score      mean_k s_k(a) - κ std_k s_k(a)
    policy     π(a) = (1 - ε) [a = argmax score] + ε softmax(score)(a)

The likeliest placement is planted as a rule, as one does with a policy once it is learned, and a
share ε is drawn, so that runs can be learned from in turn. Where the members were taught alike they
agree; where nothing was taught they keep what each began with, and the spread that κ takes off
makes such placements unlikely.
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

PESSIMISM = 1.0
"""κ: standard deviations of the members that are taken off their mean."""
EXPLORATION = 0.1
"""ε: share of the choices that is drawn."""


@dataclass(frozen=True, slots=True, eq=False)
class SoftmaxEnsemble:
    """The weights θ of each member (K, W), and the features r (W,) that they are measured from."""

    kind: ClassVar[str] = "awr"

    weights: Floats
    reference: Floats

    @classmethod
    def blank(cls) -> "SoftmaxEnsemble":
        """Return one that prefers nothing."""
        return cls(np.zeros((1, PLACEMENT_WIDTH)), np.zeros(PLACEMENT_WIDTH))

    def scores(self, features: Floats, *, pessimism: float = PESSIMISM) -> Floats:
        """Return (P,) for what is offered, features (P, W)."""
        members = (features - self.reference) @ self.weights.T  # (P, K)
        found: Floats = members.mean(axis=1) - pessimism * members.std(axis=1)
        return found

    def probabilities(
        self, features: Floats, *, pessimism: float = PESSIMISM, exploration: float = EXPLORATION
    ) -> Floats:
        """Return (P,), how likely each placement is planted."""
        scores = self.scores(features, pessimism=pessimism)
        found: Floats = exploration * softmax(scores)
        found[scores.argmax()] += 1.0 - exploration
        return found

    def to_json(self) -> dict[str, Any]:
        """Return the weights as JSON values, with the version of the features they are about."""
        return {
            "features": PLACEMENT_VERSION,
            "weights": self.weights.tolist(),
            "reference": self.reference.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "SoftmaxEnsemble":
        """Read what `to_json` wrote.

        Raises:
            FeatureVersionError: it is about features of another version.
            ValueError: the weights are not those of an ensemble.
        """
        check_features(data["features"])
        weights = np.array(data["weights"], dtype=np.float64)
        if weights.ndim != 2 or weights.shape[1] != PLACEMENT_WIDTH or not len(weights):
            raise ValueError(f"weights of shape {weights.shape}, not (members, {PLACEMENT_WIDTH})")
        reference = np.array(data["reference"], dtype=np.float64)
        if reference.shape != (PLACEMENT_WIDTH,):
            raise ValueError(f"a reference of shape {reference.shape}, not ({PLACEMENT_WIDTH},)")
        if not (np.isfinite(weights).all() and np.isfinite(reference).all()):
            raise ValueError("a weight is not finite")
        return cls(weights, reference)


def softmax(scores: Floats) -> Floats:
    """Return probabilities (P,) in proportion to the exponentials of scores (P,)."""
    powers = np.exp(scores - scores.max())
    found: Floats = powers / powers.sum()
    return found


def load_ensemble(path: Path) -> SoftmaxEnsemble:
    """Read what `save_learned` wrote of an ensemble.

    Raises:
        FeatureVersionError: it is about features of another version.
        OSError: it cannot be read.
        ValueError: it holds no ensemble.
    """
    return SoftmaxEnsemble.from_json(json.loads(path.read_text()))
