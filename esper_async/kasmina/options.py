"""What growth may do in a run: its limits, its clocks and its margins."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from esper_async.kasmina.ramp import RAMP_SCHEDULES, RampSchedule
from esper_async.runtime.strict_model import nearest

_TIERS = ("production", "experimental")
_CHOICES: dict[str, tuple[object, ...]] = {
    "twin": ("auto", "on", "off"),
    "relative_margins": ("auto", True, False),
    "fossilized_frozen": (True, False),
    "drill": (True, False),
    "ramp": RAMP_SCHEDULES,
    "shadow_mode": ("sequential", "batched"),
    "tournament": ("full", "halving"),
}
_AT_LEAST = {
    **dict.fromkeys(
        ("max_seeds", "max_candidates", "shadow_every", "dwell_steps", "max_windows"), 1
    ),
    **dict.fromkeys(("ramp_boundaries", "window_boundaries", "isolation_every"), 1),
    **dict.fromkeys(("embargo_boundaries", "warmup_steps"), 0),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthOptions:
    """Limits and schedule of growth. Windows and dwells count boundaries or optimizer steps.

    The defaults were calibrated on MNIST-1D and a small MNIST convolution net.

    Args:
        max_seeds: seeds of a run from BLENDING on, kept ones included.
        max_candidates: seeds up to TRAINING: those that train in shadow, and those that wait to.
        max_training: seeds that train in shadow at the same time; others wait in GERMINATED. "auto"
            is as many as there may be candidates.
        tournament: "full", every candidate trains for its whole dwell; or "halving", the worse half
            is dropped again and again while the others train on (`rounds`), which takes about half
            of the shadow passes.
        first_round_steps: of a tournament by halves, optimizer steps that all of its candidates
            train at least; "auto" is `warmup_steps` and 20 shadow passes.
        twin: whether a trial is compared with a no-growth twin.
        tiers: tiers of the catalogue that a policy may choose from.
        parameter_budget: kept seeds may add at most this many times the host's parameters.
        shadow_every: a candidate's shadow pass runs on every so many batches.
        shadow_mode: "sequential", each candidate alone; or "batched", those of a site in one pass
            where host and kernels allow it (no batch statistics, no randomness, single precision,
            one rank). It is quicker where a host is small, needs the memory of all of them at once,
            and comes to the same losses but for rounding.
        isolation_every: so many of a seed's shadow passes lie between two that are looked at for
            traces in the host.
        dwell_steps: optimizer steps in TRAINING before a seed is judged.
        ramp_boundaries: boundaries over which alpha rises from 0 to 1.
        ramp: how it rises, where a candidate does not say: "linear", "cosine" or "sigmoid".
        window_boundaries: boundaries past the ramp after which benefit is judged.
        max_windows: windows after which a seed whose benefit is not shown is culled.
        embargo_boundaries: boundaries a site rests after a cull.
        g2_margin: least lower bound of the clean contribution (nats).
        latency_budget: a forward pass may take at most this many times as long with a seed as
            without, or G2 refuses it; None does not look. Times are never the same twice: a run
            that is to be deterministic has none.
        g4_margin: least lower bound of the benefit against the twin (nats).
        relative_margins: margins are fractions of the validation loss; "auto" for every loss that
            is not known to be in nats (a cross-entropy).
        warmup_steps: optimizer steps over which a new seed's rate rises to its base.
        clip_norm: largest gradient norm of one seed's kernel.
        fossilized_frozen: kept seeds stop training.
        teacher_weight: share of the soft targets, where the task has a teacher, in the loss that a
            seed learns from in shadow.
        teacher_temperature: how soft they are; at 1 they are the teacher's own probabilities.
        drill: planted and adversarial kernels are allowed; only in throw-away runs.
    """

    max_seeds: int = 4
    max_candidates: int = 8
    max_training: int | Literal["auto"] = "auto"
    tournament: Literal["full", "halving"] = "full"
    first_round_steps: int | Literal["auto"] = "auto"
    twin: Literal["auto", "on", "off"] = "auto"
    tiers: tuple[str, ...] = ("production",)
    parameter_budget: float = 8.0
    shadow_every: int = 2
    shadow_mode: Literal["sequential", "batched"] = "sequential"
    isolation_every: int = 50
    dwell_steps: int = 200
    ramp_boundaries: int = 3
    ramp: RampSchedule = "linear"
    window_boundaries: int = 3
    max_windows: int = 3
    embargo_boundaries: int = 2
    g2_margin: float = -0.02
    latency_budget: float | None = None
    g4_margin: float = 0.005
    relative_margins: bool | Literal["auto"] = "auto"
    warmup_steps: int = 20
    clip_norm: float = 1.0
    fossilized_frozen: bool = False
    teacher_weight: float = 0.5
    teacher_temperature: float = 2.0
    drill: bool = False

    def __post_init__(self) -> None:
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(
                    f"growth.{name} must be at least {least}, not {getattr(self, name)}"
                )
        self._check_automatic()
        if not 0.0 <= self.teacher_weight <= 1.0:
            raise ValueError(
                f"growth.teacher_weight must be between 0 and 1, not {self.teacher_weight}"
            )
        for name in ("parameter_budget", "clip_norm", "teacher_temperature"):
            if not getattr(self, name) > 0:
                raise ValueError(f"growth.{name} must be > 0, not {getattr(self, name)}")
        if self.latency_budget is not None and not self.latency_budget >= 1:
            raise ValueError(f"growth.latency_budget must be >= 1, not {self.latency_budget}")
        for name in ("g2_margin", "g4_margin"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"growth.{name} must be finite, not {getattr(self, name)}")
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(_unknown(f"growth.{name}", getattr(self, name), allowed))
        self._check_tiers()

    def _check_automatic(self) -> None:
        for name in ("max_training", "first_round_steps"):
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ValueError(f'growth.{name} must be at least 1, or "auto", not {value}')

    def _check_tiers(self) -> None:
        if isinstance(self.tiers, str):
            raise ValueError(f"growth.tiers is a list, like [{self.tiers!r}], not {self.tiers!r}")
        quarantined = ("adversarial", "planted")
        for tier in self.tiers:
            if tier in quarantined and not self.drill:
                raise ValueError(f"growth.tiers: the {tier} tier is refused for any live run")
            if tier not in _TIERS + quarantined:
                raise ValueError(_unknown("growth.tiers", tier, _TIERS))

    @property
    def training_slots(self) -> int:
        """How many seeds may train in shadow at the same time."""
        return self.max_candidates if self.max_training == "auto" else self.max_training

    @classmethod
    def of(cls, growth: "GrowthOptions | Mapping[str, Any] | None") -> Self:
        """Return the options that a mapping names; options are returned as they are.

        Raises:
            TypeError: a key is unknown.
            ValueError: a value is not allowed.
        """
        if isinstance(growth, cls):
            return growth
        known = [entry.name for entry in fields(cls)]
        given = dict(growth or {})  # type: ignore[arg-type]
        for name in given:
            if name not in known:
                raise TypeError(_unknown("growth", name, known))
        return cls(**given)


def _unknown(place: str, value: object, allowed: Iterable[object]) -> str:
    """Say which value is not known, which one may have been meant, and which there are."""
    names = [str(name) for name in allowed]
    close = nearest(value, names) if isinstance(value, str) else None
    meant = f"did you mean {close!r}? " if close else ""
    return f"{place} knows no {value!r}; {meant}known: {', '.join(names)}"
