"""What growth may do in a run: its limits, its clocks and its margins."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class GrowthOptions:
    """Limits and schedule of growth. Windows and dwells count boundaries or optimizer steps.

    The defaults were calibrated on MNIST-1D and a small MNIST convolution net.

    Args:
        max_seeds: seeds of a run from BLENDING on, kept ones included.
        max_candidates: seeds that train in shadow at the same time.
        twin: whether a trial is compared with a no-growth twin.
        tiers: tiers of the catalogue that a policy may choose from.
        parameter_budget: kept seeds may add at most this many times the host's parameters.
        shadow_every: a candidate's shadow pass runs on every so many batches.
        dwell_steps: optimizer steps in TRAINING before a seed is judged.
        ramp_boundaries: boundaries over which alpha rises from 0 to 1.
        window_boundaries: boundaries past the ramp after which benefit is judged.
        max_windows: windows after which a seed whose benefit is not shown is culled.
        embargo_boundaries: boundaries a site rests after a cull.
        g2_margin: least lower bound of the clean contribution (nats).
        g4_margin: least lower bound of the benefit against the twin (nats).
        relative_margins: margins are fractions of the validation loss; "auto" for every loss that
            is not known to be in nats (a cross-entropy).
        warmup_steps: optimizer steps over which a new seed's rate rises to its base.
        clip_norm: largest gradient norm of one seed's kernel.
        fossilized_frozen: kept seeds stop training.
        drill: planted and adversarial kernels are allowed; only in throw-away runs.
    """

    max_seeds: int = 4
    max_candidates: int = 8
    twin: Literal["auto", "on", "off"] = "auto"
    tiers: tuple[str, ...] = ("production",)
    parameter_budget: float = 8.0
    shadow_every: int = 2
    dwell_steps: int = 200
    ramp_boundaries: int = 3
    window_boundaries: int = 3
    max_windows: int = 3
    embargo_boundaries: int = 2
    g2_margin: float = -0.02
    g4_margin: float = 0.005
    relative_margins: bool | Literal["auto"] = "auto"
    warmup_steps: int = 20
    clip_norm: float = 1.0
    fossilized_frozen: bool = False
    drill: bool = False

    def __post_init__(self) -> None:
        for name in ("max_seeds", "max_candidates", "shadow_every", "dwell_steps", "max_windows"):
            if getattr(self, name) < 1:
                raise ValueError(f"growth.{name} must be at least 1, not {getattr(self, name)}")
        if self.window_boundaries < 1 or self.ramp_boundaries < 1:
            raise ValueError("growth.ramp_boundaries and growth.window_boundaries are at least 1")
        if self.parameter_budget <= 0:
            raise ValueError(f"growth.parameter_budget must be > 0, not {self.parameter_budget}")
