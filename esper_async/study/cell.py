"""One run of a study: all that its result depends on, and the result, as plain JSON values."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from esper_async.study.plan import Setting


@dataclass(frozen=True, slots=True)
class Reference:
    """What an arm takes from another arm's run.

    Its size, its cost, what it kept; and each boundary at which it planted, with how many
    candidates.
    """

    parameters: int
    total_macs: float
    kept: tuple[Mapping[str, Any], ...] = ()
    planted: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Cell:
    """A task, an arm, its setting and a seed.

    A cell that `tunes` never sees the test split: its score is on the decision split.
    """

    task_name: str
    arm_name: str
    task: Mapping[str, Any]
    arm: Mapping[str, Any]
    primary: str
    setting: Setting
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
        fields["setting"] = Setting(**fields["setting"])
        reference = fields["reference"]
        if reference is not None:
            planted = tuple((boundary, count) for boundary, count in reference["planted"])
            fields["reference"] = Reference(
                **{**reference, "kept": tuple(reference["kept"]), "planted": planted}
            )
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
        return f"{what}{self.arm_name} on {self.task_name}, {self.setting}, seed {self.seed}"


@dataclass(frozen=True, slots=True)
class CellResult:
    """What a run scored and what it cost.

    `score` is the primary metric where the cell may look; None: the run diverged. Costs are
    multiply-accumulates: of the host, of shadow passes, of measuring candidates, and of twins;
    `culled_macs` is the part of the shadow passes that trained what was not kept. `history` has an
    entry a boundary, `transitions` one a change of a seed's stage, `benefits` one a seed that was
    compared with its twin (nats, as they were last measured).
    """

    score: float | None
    validation: float | None
    parameters: int
    epochs: int
    steps: int
    host_macs: float
    shadow_macs: float
    judging_macs: float
    twin_macs: float
    culled_macs: float
    wall_s: float
    peak_memory_bytes: int
    history: tuple[Mapping[str, Any], ...] = ()
    transitions: tuple[Mapping[str, Any], ...] = ()
    kept: tuple[Mapping[str, Any], ...] = ()
    benefits: tuple[Mapping[str, Any], ...] = ()
    failure: str = ""
    loss_in_nats: bool = True
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def total_macs(self) -> float:
        """Everything that the run spent."""
        return self.host_macs + self.shadow_macs + self.judging_macs + self.twin_macs

    @property
    def reference(self) -> Reference:
        """What another arm may take from this run."""
        return Reference(self.parameters, self.total_macs, self.kept, self.planted)

    @property
    def planted(self) -> tuple[tuple[int, int], ...]:
        """Each boundary at which candidates were planted, with how many."""
        count = Counter(
            int(each["boundary"]) for each in self.transitions if each["to_stage"] == "GERMINATED"
        )
        return tuple(sorted(count.items()))

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "CellResult":
        """Read back what `to_json` gave. Raises TypeError when a field is missing or unknown."""
        fields = dict(document)
        for name in ("history", "transitions", "kept", "benefits"):
            fields[name] = tuple(fields[name])
        return cls(**fields)
