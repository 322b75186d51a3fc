"""What a node of the graph carries: every feature with its unit, range and normalisation.

A feature's name carries its version: one that comes to mean something else gets another name, and
a policy that was trained for the old one refuses the graph. Each value is followed by a flag that
says it was not measured; the value is 0 then.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from esper_async.tamiyo.feature_versions import GRAPH_VERSION

NodeType = Literal["run", "layer", "activation", "parameter", "seed", "blueprint"]
NODE_TYPES: tuple[NodeType, ...] = get_args(NodeType)
Scale = Literal["share", "log", "signed"]
FEATURES_VERSION = GRAPH_VERSION
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Feature:
    """One feature of a node.

    Args:
        name: with its version, as "alpha/1".
        unit: of the raw value.
        low, high: the range of raw values; what lies outside counts as the nearer end.
        scale: "share" maps the range to 0..1 in proportion, "log" by log(1 + value) over
            log(1 + high), "signed" any number to -1..1 by value / (|value| + high).
        meaning: one line.
    """

    name: str
    unit: str
    low: float
    high: float
    scale: Scale
    meaning: str


def _share(name: str, meaning: str, high: float = 1.0, unit: str = "1") -> Feature:
    return Feature(f"{name}/1", unit, 0.0, high, "share", meaning)


def _log(name: str, meaning: str, high: float, unit: str = "1") -> Feature:
    return Feature(f"{name}/1", unit, 0.0, high, "log", meaning)


def _signed(name: str, meaning: str, scale: float, unit: str = "nats") -> Feature:
    return Feature(f"{name}/1", unit, -np.inf, scale, "signed", meaning)


_COUNT = 1e9
_RUN = (
    _log("boundary", "boundaries so far", 1000.0),
    _share("early", "boundaries so far, of the first sixteen", 16.0),
    _log("boundaries_left", "until the end, where it is known", 1000.0),
    _share("time_for_a_trial", "whether a seed planted now could be judged before the end"),
    _log("validation_loss", "the last one", 100.0, "nats"),
    _log("training_loss", "the last one", 100.0, "nats"),
    _signed("gap", "validation loss less training loss", 0.5),
    _share("training_share", "training loss, of the validation loss", 2.0),
    _signed("slope", "change of validation loss over the last boundary", 0.05),
    _signed("slope_of_five", "change of validation loss over the last five boundaries", 0.1),
    _share("in_training", "candidates up to TRAINING", 8.0),
    _share("any_in_training", "whether there are any"),
    _share("on_trial", "whether a seed is in the forward pass and not yet kept"),
    _share("kept", "kept seeds, of those that there may be"),
    _share("free_candidates", "candidates that may still be planted", 8.0),
    _share("any_placement", "whether anything may be planted now"),
    _share("budget_left", "parameters that may still be added, of the host's own", 8.0),
    _log("host_parameters", "parameters of the host", _COUNT),
    _share("memory_available", "of the device's whole memory"),
    _share("utilisation", "of the device"),
    _share("temperature", "of the device", 110.0, "celsius"),
    _log("decision_ms", "what the last decision took", 1000.0, "ms"),
)
_LAYER = (
    _share("depth", "place in the forward pass, of all sites"),
    _share("is_spatial", "its activation is (N, C, H, W) or (N, C, L)"),
    _share("is_sequence", "its activation is (N, T, D)"),
    _share("is_feature", "its activation is (N, F)"),
    _share("resting", "whether its site is under embargo"),
    _share("seeds", "seeds of its site that live", 8.0),
    _share("kept", "seeds of its site that were kept", 4.0),
)
_ACTIVATION = (
    _log("channels", "features at each position", 1e5),
    _log("positions", "places that have features", 1e6),
    _log("elements", "values of a sample", _COUNT),
    _share("element_bytes", "bytes of a value", 8.0, "bytes"),
    _share("channels_last", "whether it lies in memory so"),
)
_PARAMETER = (
    _log("count", "parameters of the layer", _COUNT),
    _share("share", "of the host's parameters"),
    _log("tensors", "tensors of the layer", 1e3),
    _share("trainable", "share of them that is trained"),
    _log("gradient_rms", "root mean square of the last gradients, in thousandths", 1e6, "1e-3"),
)
_SEED = (
    _share("is_germinated", "stage"),
    _share("is_training", "stage"),
    _share("is_blending", "stage"),
    _share("is_shadowing", "stage"),
    _share("is_probationary", "stage"),
    _share("is_fossilized", "stage"),
    _share("alpha", "how far it is blended in"),
    _log("age", "since germination", 1000.0, "boundaries"),
    _log("stage_age", "since it came to its stage", 100.0, "boundaries"),
    _log("parameters", "parameters of its kernel", _COUNT),
    _share("size", "parameters of its kernel, of the host's", 8.0),
    _log("gradient_norm", "of the last shadow gradient, in thousandths", 1e6, "1e-3"),
    _log("learning_rate", "of its kernel, in millionths", 1e6, "1e-6"),
    _signed("contribution", "clean contribution", 0.1),
    _signed("contribution_low", "its lower bound", 0.1),
    _signed("dependence", "on against off after blending", 0.5),
    _signed("benefit", "benefit against the twin", 0.1),
    _signed("benefit_low", "its lower bound", 0.1),
    _share("estimated", "whether the benefit is an estimate"),
    _share("windows", "judgements it has had", 3.0),
    _share("paused", "whether it is held where it is"),
    _share("risk", "of its blueprint"),
)
_BLUEPRINT = (
    _share("stage", "grade of complexity", 6.0),
    _share("risk", "as the catalogue grades it"),
    _share("experimental", "tier"),
    _share("is_replacement", "its output replaces the activation"),
    _log("smallest", "parameters where it is smallest", _COUNT),
    _log("largest", "parameters where it is largest", _COUNT),
    _share("sites", "share of the sites where it may be planted"),
    _share("living", "seeds of it that live", 8.0),
    _share("kept", "seeds of it that were kept", 4.0),
)
PAIR_FEATURES = (
    Feature("log_parameters/1", "1", 0.0, np.inf, "log", "log(1 + parameters), as it is"),
    _share("of_the_budget", "parameters, of what may still be added"),
)
"""What is known of a blueprint at a site, beside the two nodes."""


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """How raw values become features, each (n,) of them by its own rule, many rows at once."""

    logs: NDArray[np.bool_]
    lows: NDArray[np.float64]
    highs: NDArray[np.float64]
    divisors: NDArray[np.float64]
    soft: NDArray[np.float64]

    @staticmethod
    def of(features: Sequence[Feature]) -> "Scaling":
        """Return the rules of features."""
        scales = np.array([feature.scale for feature in features])
        highs = np.array([feature.high for feature in features], dtype=np.float64)
        logs, signed = scales == "log", scales == "signed"
        return Scaling(
            logs=logs,
            lows=np.where(signed, -np.inf, 0.0),
            highs=np.where(signed, np.inf, highs),
            divisors=np.where(logs, np.log1p(highs), highs),
            soft=signed.astype(np.float64),
        )

    def only(self, column: int, count: int) -> "Scaling":
        """Return the rule of one feature, for so many values in a row."""
        return Scaling(*(np.repeat(getattr(self, name)[column], count) for name in _RULES))

    @staticmethod
    def joined(parts: Sequence["Scaling"]) -> "Scaling":
        """Return the rules of several in a row."""
        return Scaling(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in _RULES)
        )

    def apply(self, raw: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return (..., n) normalised, and the flags of what was not measured: is not finite.

        Works in the memory of `raw`.
        """
        missing = ~np.isfinite(raw)
        raw[missing] = 0.0
        np.maximum(raw, self.lows, out=raw)
        np.minimum(raw, self.highs, out=raw)
        np.log1p(raw, out=raw, where=self.logs)
        divisors = np.abs(raw)
        divisors *= self.soft
        divisors += self.divisors
        raw /= divisors
        return raw, missing


_RULES = ("logs", "lows", "highs", "divisors", "soft")


class Table:
    """The features of a node type, and their normalisation for many nodes at once."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = tuple(features)
        self.scaling = Scaling.of(features)

    @property
    def width(self) -> int:
        """Numbers a node: a value and a flag for each feature."""
        return 2 * len(self.features)

    def column(self, name: str) -> int:
        """Return where a feature's value stands. Raises ValueError for one that is not known."""
        return [feature.name for feature in self.features].index(name)

    def tensorise(
        self, rows: Sequence[Sequence[float | None]] | NDArray[np.float64], pad_to: int
    ) -> Floats:
        """Return (pad_to, width): normalised values, then flags; padding is all 0.

        What is None or not finite was not measured.
        """
        if len(rows) == 0:
            return np.zeros((pad_to, self.width), dtype=np.float32)
        return self.padded(*self.scaling.apply(np.array(rows, dtype=np.float64)), pad_to)

    def padded(
        self, values: NDArray[np.float64], missing: NDArray[np.bool_], pad_to: int
    ) -> Floats:
        """Return (pad_to, width) of values (n, features) and their flags; padding is all 0."""
        count, features = values.shape
        found = np.zeros((pad_to, 2 * features), dtype=np.float32)
        found[:count, :features] = values
        found[:count, features:] = missing
        return found


TABLES: dict[NodeType, Table] = {
    "run": Table(_RUN),
    "layer": Table(_LAYER),
    "activation": Table(_ACTIVATION),
    "parameter": Table(_PARAMETER),
    "seed": Table(_SEED),
    "blueprint": Table(_BLUEPRINT),
}


def schema_digest() -> str:
    """Return what a policy must have been trained for: SHA-256 over all that a feature says."""
    text = [FEATURES_VERSION]
    for node_type in NODE_TYPES:
        text += [f"{node_type}.{_signature(f)}" for f in TABLES[node_type].features]
    text += [f"pair.{_signature(feature)}" for feature in PAIR_FEATURES]
    return hashlib.sha256("\n".join(text).encode()).hexdigest()


def _signature(feature: Feature) -> str:
    return f"{feature.name} {feature.unit} {feature.low:g}..{feature.high:g} {feature.scale}"
