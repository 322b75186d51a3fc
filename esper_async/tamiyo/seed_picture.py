"""One seed as its journal records show it: where it is, how it got there, what was measured."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]

REMOVED_STAGES = frozenset({"CULLED", "EMBARGOED", "RESETTING", "DORMANT"})
"""Stages in which a seed is no longer in the network, so that it has no alpha."""


@dataclass(slots=True)
class SeedPicture:
    """A seed's last known state and its way there.

    A quantity is None where it was not measured; `lane` holds every change of stage, oldest
    first, each with the gate that let it pass or stopped it.
    """

    id: str
    site: str
    blueprint: str | None = None
    kernel: str | None = None
    parameters: int | None = None
    stage: str = "UNKNOWN"
    alpha: float | None = None
    age_epochs: int | None = None
    clean_contribution: Json | None = None
    dependence: Json | None = None
    benefit_vs_twin: Json | None = None
    gates: list[Json] = field(default_factory=list)
    lane: list[Json] = field(default_factory=list)
    last_seq: int = 0

    def observe(self, state: Mapping[str, Any], seq: int) -> None:
        """Take over what a boundary record says about this seed.

        A quantity measured before is kept when the boundary did not measure it again.
        """
        self.stage = state["stage"]
        self.alpha = None if self.stage in REMOVED_STAGES else state.get("alpha")
        self.age_epochs = state.get("age_epochs")
        self.blueprint = state.get("blueprint") or self.blueprint
        self.kernel = state.get("kernel") or self.kernel
        self.parameters = state.get("parameters") or self.parameters
        for name in ("clean_contribution", "dependence", "benefit_vs_twin"):
            if state.get(name) is not None:
                setattr(self, name, state[name])
        for gate in state.get("gates") or ():
            self.judge(gate)
        self.last_seq = seq

    def move(self, entry: Json) -> None:
        """Append a change of stage; `entry` is an item of `lane`."""
        self.lane.append(entry)
        self.stage = entry["to_stage"]
        if entry["gate"] is not None:
            self.judge(entry["gate"])
        if self.stage in REMOVED_STAGES:
            self.alpha = None
        self.last_seq = entry["seq"]

    def judge(self, gate: Json) -> None:
        """Keep the newest result of each gate, in the order in which the gates were first read."""
        for index, known in enumerate(self.gates):
            if known["name"] == gate["name"]:
                self.gates[index] = gate
                return
        self.gates.append(gate)

    def forget_after(self, boundary: int) -> None:
        """Drop the changes of stage past `boundary`: the run went back before them."""
        kept = [entry for entry in self.lane if entry["boundary"] <= boundary]
        if len(kept) != len(self.lane) and kept:
            self.stage = kept[-1]["to_stage"]
        self.lane = kept

    def to_json(self) -> Json:
        """The seed as `/api/runs/{id}/seeds` shows it."""
        return {
            "id": self.id,
            "site": self.site,
            "stage": self.stage,
            "blueprint": self.blueprint,
            "kernel": self.kernel,
            "alpha": self.alpha,
            "age_epochs": self.age_epochs,
            "clean_contribution": self.clean_contribution,
            "dependence": self.dependence,
            "benefit_vs_twin": self.benefit_vs_twin,
            "gates": self.gates,
        }
