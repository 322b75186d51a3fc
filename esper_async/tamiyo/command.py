"""The commands a policy can give, and the decision that carries one."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from esper_async.kasmina.operations import VERBS, Tuning, Verb
from esper_async.kasmina.seed import Candidate


@dataclass(frozen=True, slots=True)
class NoOp:
    """Leave everything as it is."""

    def to_json(self) -> dict[str, Any]:
        """Return the command as JSON values."""
        return {"type": "NO_OP", "operation": None, "candidates": [], "target": None}


@dataclass(frozen=True, slots=True)
class Germinate:
    """Plant 1 to 8 candidates as one tournament."""

    candidates: tuple[Candidate, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the command as JSON values."""
        return {
            "type": "SEED",
            "operation": "GERMINATE",
            "candidates": [candidate.to_json() for candidate in self.candidates],
            "target": None,
        }


@dataclass(frozen=True, slots=True)
class Cull:
    """Remove a seed that is not yet kept."""

    seed: str

    def to_json(self) -> dict[str, Any]:
        """Return the command as JSON values."""
        return {"type": "SEED", "operation": "CULL", "candidates": [], "target": self.seed}


@dataclass(frozen=True, slots=True)
class Operate:
    """Act on one seed in another way; `kasmina.operations` says what each verb does."""

    seed: str
    verb: Verb
    tuning: Tuning | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the command as JSON values."""
        return {
            "type": "SEED",
            "operation": self.verb,
            "candidates": [],
            "target": self.seed,
            "tuning": None if self.tuning is None else asdict(self.tuning),
        }


@dataclass(frozen=True, slots=True)
class PauseSeeds:
    """Hold seeds where they are, weights, alpha and clocks, or let them go on; never the run."""

    seeds: tuple[str, ...]
    paused: bool = True

    def to_json(self) -> dict[str, Any]:
        """Return the command as JSON values."""
        return {
            "type": "PAUSE",
            "operation": "PAUSE" if self.paused else "RESUME",
            "candidates": [],
            "target": None,
            "seeds": list(self.seeds),
        }


Command = NoOp | Germinate | Cull | Operate | PauseSeeds


def command_from_json(data: Mapping[str, Any]) -> Command:
    """Read what `to_json` wrote.

    Raises:
        ValueError: the operation is not known.
    """
    operation = data["operation"]
    if operation is None:
        return NoOp()
    if operation == "CULL":
        return Cull(data["target"])
    if operation == "GERMINATE":
        return Germinate(tuple(Candidate(**candidate) for candidate in data["candidates"]))
    if operation in ("PAUSE", "RESUME"):
        return PauseSeeds(tuple(data["seeds"]), paused=operation == "PAUSE")
    if operation in VERBS:
        tuning = data.get("tuning")
        return Operate(data["target"], operation, None if tuning is None else Tuning(**tuning))
    known = ", ".join(("GERMINATE", "CULL", "PAUSE", "RESUME", *VERBS))
    raise ValueError(f"unknown seed operation {operation!r}; known: {known}")


@dataclass(frozen=True, slots=True)
class Decision:
    """One command with the reason for it, and how likely the policy was to give it.

    `probability` is 1.0 for what follows from a rule, and None where a random choice was made
    whose probability is not known: a report on it cannot be weighted.

    `value` is the return that the policy expected; `evidence` holds what it saw and every head's
    distribution, as `tamiyo.evidence` packs them, `choices` all that it drew from with the
    probability of each, as `tamiyo.offer` packs them.
    """

    command: Command
    reason: str
    probability: float | None = None
    alternatives: tuple[Mapping[str, Any], ...] = field(default=())
    value: float | None = None
    evidence: str | None = None
    choices: str | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return {
            "command": self.command.to_json(),
            "reason": self.reason,
            "probability": self.probability,
            "alternatives": [dict(entry) for entry in self.alternatives],
            "value": self.value,
            "evidence": self.evidence,
            "choices": self.choices,
        }


def decision_from_json(data: Mapping[str, Any]) -> Decision:
    """Read what `Decision.to_json` wrote.

    Raises:
        ValueError: the command's operation is not known.
    """
    return Decision(
        command_from_json(data["command"]),
        data["reason"],
        data["probability"],
        tuple(data["alternatives"]),
        data["value"],
        data["evidence"],
        data["choices"],
    )
