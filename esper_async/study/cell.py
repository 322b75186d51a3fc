"""One run of a study: all that its result depends on, and the result, as plain JSON values."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Reference:
    """What an arm takes from another arm's run: its size, its cost, and what it kept."""

    parameters: int
    total_macs: float
    kept: tuple[Mapping[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """A task, an arm, a rate and a seed.

    A cell that `tunes` never sees the test split: its score is on the decision split.
    """

    task_name: str
    arm_name: str
    task: Mapping[str, Any]
    arm: Mapping[str, Any]
    primary: str
    rate: float
    seed: int
    tunes: bool
    reference: Reference | None = None

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Cell":
        """Read back what `to_json` gave. Raises TypeError when a field is missing or unknown."""
        fields = dict(document)
        reference = fields["reference"]
        if reference is not None:
            fields["reference"] = Reference(**{**reference, "kept": tuple(reference["kept"])})
        return cls(**fields)

    def key(self, code: str) -> str:
        """The name of its result: a hash of its content and of the code that runs it."""
        content = asdict(self)
        del content["task_name"], content["arm_name"]
        text = json.dumps({"code": code, **content}, sort_keys=True, allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()

    @property
    def label(self) -> str:
        """The cell in words."""
        what = "tuning " if self.tunes else ""
        return f"{what}{self.arm_name} on {self.task_name}, rate {self.rate:g}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class CellResult:
    """What a run scored and what it cost.

    `score` is the primary metric where the cell may look; None: the run diverged. Costs are
    multiply-accumulates; `culled_macs` is the part of the shadow passes that trained what was not
    kept. `history` has an entry a boundary, `seeds` the stages of every seed.
    """

    score: float | None
    validation: float | None
    parameters: int
    epochs: int
    steps: int
    host_macs: float
    shadow_macs: float
    twin_macs: float
    wall_s: float
    peak_memory_bytes: int
    history: tuple[Mapping[str, Any], ...] = ()
    transitions: tuple[Mapping[str, Any], ...] = ()
    kept: tuple[Mapping[str, Any], ...] = ()
    failure: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total_macs(self) -> float:
        """Everything that the run spent."""
        return self.host_macs + self.shadow_macs + self.twin_macs

    @property
    def reference(self) -> Reference:
        """What another arm may take from this run."""
        return Reference(self.parameters, self.total_macs, self.kept)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "CellResult":
        """Read back what `to_json` gave. Raises TypeError when a field is missing or unknown."""
        fields = dict(document)
        for name in ("history", "transitions", "kept"):
            fields[name] = tuple(fields[name])
        return cls(**fields)
