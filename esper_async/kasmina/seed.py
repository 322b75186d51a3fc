"""A seed: one kernel at one site, with its stage, its optimizer and what was measured of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.kernels.graft import BlendMode, Graft
from esper_async.kasmina.quantity import Quantity
from esper_async.kasmina.ramp import RampSchedule
from esper_async.kasmina.random_state import RandomStream, fresh_stream
from esper_async.kasmina.sites import Site
from esper_async.kasmina.stage import Stage

GRADIENT_GRACE_STEPS = 20
"""Shadow steps within which every tensor of a kernel must have received a gradient."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A kernel proposed for a site: what a GERMINATE command plants.

    `blend` None is what fits the kernel, `ramp` None the run's own.
    """

    site: str
    blueprint: str
    blend: BlendMode | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)
    ramp: RampSchedule | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "site": self.site,
            "blueprint": self.blueprint,
            "blend": self.blend,
            "parameters": dict(self.parameters),
            "ramp": self.ramp,
        }


@dataclass(slots=True, kw_only=True)
class GradientRecord:
    """What is known of a kernel's gradients; tensors, so that no step waits for the device."""

    steps: int = 0
    reached: Tensor | None = None
    last_norm: Tensor | None = None
    finite: Tensor | None = None

    def note(self, norms: Tensor) -> Tensor:
        """Take in the gradient norms (T,) of the kernel's tensors; return the total norm ()."""
        total: Tensor = torch.linalg.vector_norm(norms)
        if self.reached is None or self.finite is None:
            self.reached = norms > 0
            self.finite = torch.isfinite(total)
        else:
            self.finite = self.finite & torch.isfinite(total)
            if self.steps < GRADIENT_GRACE_STEPS:
                self.reached = self.reached | (norms > 0)
        self.last_norm = total
        self.steps += 1
        return total

    def state_dict(self) -> dict[str, Any]:
        """Return the record as tensors and numbers."""
        return {name: getattr(self, name) for name in _RECORD_FIELDS}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over what `state_dict` returned."""
        for name in _RECORD_FIELDS:
            setattr(self, name, state[name])


_RECORD_FIELDS = ("steps", "reached", "last_norm", "finite")


@dataclass(slots=True, kw_only=True, eq=False)
class Seed:
    """One kernel at one site of a run.

    Until BLENDING the kernel is no part of the model; `optimizer` (None for a kernel without
    parameters) belongs to the seed for its whole life. `buffers` are the shadow's own copies of
    the host's buffers while it trains. One that has ended is a record, and holds no tensor.

    Attributes:
        attribute: name of the graft in the module tree, from BLENDING on; a branch that owns the
            seed chooses it.
        body: its kernel in the blend with the host; None once it has ended.
        stream: what its kernel draws random numbers from in shadow; None once it has ended.
        paused: its weights and alpha stay where they are.
        hurried: it is judged at the next boundary, whatever is left of its dwell; while it waits
            for a training slot, it is the next to get one.
        stood_down: it has trained, and another has its slot until it is judged.
        asked: it is measured at the next boundary.
        given_rate: the learning rate it was given; None is the authority's own.
        shadow_passes: how often it was trained in shadow.
        violations: samples in a row in which a shadow pass had touched the host.
        kernel_ms: what making its kernel took; None of one that a checkpoint has brought back.
        record: what a checkpoint has of it, once it is DORMANT again and nothing of it changes.
    """

    id: str
    site: Site
    candidate: Candidate
    body: Graft | None
    optimizer: Optimizer | None
    tournament: str
    born_boundary: int
    stream: RandomStream | None
    attribute: str = ""
    stage: Stage = Stage.GERMINATED
    stage_steps: int = 0
    stage_boundaries: int = 0
    windows: int = 0
    buffers: dict[str, Tensor] = field(default_factory=dict)
    gradients: GradientRecord = field(default_factory=GradientRecord)
    clean_contribution: Quantity | None = None
    dependence: Quantity | None = None
    benefit_vs_twin: Quantity | None = None
    gates: list[GateResult] = field(default_factory=list)
    parameter_count: int
    ended_boundary: int | None = None
    rest_boundaries: int = 0
    paused: bool = False
    hurried: bool = False
    stood_down: bool = False
    asked: bool = False
    given_rate: float | None = None
    shadow_passes: int = 0
    violations: int = 0
    kernel_ms: float | None = None
    record: str | None = None

    @property
    def graft(self) -> Graft:
        """The kernel in its blend with the host.

        Raises:
            LookupError: the seed has ended.
        """
        if self.body is None:
            raise LookupError(f"seed {self.id} has ended: its kernel is gone")
        return self.body

    @property
    def kernel(self) -> nn.Module:
        """The kernel's module."""
        return self.graft.kernel

    @property
    def owner(self) -> str:
        """What it is called as the owner of its parameters."""
        return owner_name(self.id)

    @property
    def at_rest(self) -> bool:
        """Whether no shadow pass trains it, though its stage is TRAINING."""
        return self.paused or self.stood_down

    @property
    def ended(self) -> bool:
        """Whether the seed was removed: its kernel is gone, its record stays."""
        return self.ended_boundary is not None

    @property
    def alpha(self) -> float:
        """How far the seed is blended in: 0 before BLENDING, although its shadow is fully on."""
        if self.body is None or self.stage < Stage.BLENDING:
            return 0.0
        return float(self.body.alpha.mean())

    def amend(
        self, gate: GateResult, remark: str | None, numbers: Mapping[str, float]
    ) -> GateResult:
        """Return a gate's result with something added, and note it in place of the bare one."""
        reason = gate.reason if remark is None else f"{gate.reason}; {remark}"
        amended = replace(gate, reason=reason, numbers={**gate.numbers, **numbers})
        if self.gates and self.gates[-1] is gate:
            self.gates[-1] = amended
        return amended

    def release(self, boundary: int) -> None:
        """Free what a removed seed held: its kernel, its optimizer state, its buffers."""
        self.body = self.stream = self.optimizer = None
        self.buffers = {}
        self.gradients = GradientRecord()
        self.ended_boundary = boundary


def seed_id_of(number: int) -> str:
    """Return the id of a run's seed `number`, counted from 1."""
    return f"s{number}"


def number_of(seed_id: str) -> int:
    """Return which of a run's seeds has this id, counted from 1."""
    return int(seed_id.removeprefix("s"))


def owner_name(seed_id: str) -> str:
    """Return what a seed is called as the owner of parameters."""
    return f"seed {seed_id}"


def seed_stream(run_seed: int, seed_id: str) -> RandomStream:
    """Return the stream from which a seed draws its randomness while it trains in shadow."""
    return RandomStream(fresh_stream(run_seed, "seed", seed_id))
