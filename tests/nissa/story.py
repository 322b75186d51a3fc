"""A recorded-looking journal of a run that grows, for tests and for working on the page.

`python -m tests.nissa.story` writes `fixtures/story.jsonl`; a test holds that the file is what this
script makes. Two tournaments are held: the first one's winner is kept, the second one's is judged
no better than its twin and culled.
"""

import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from esper_async.runtime.journal import Journal

FIXTURE = Path(__file__).parent / "fixtures" / "story.jsonl"
RUN = "digits-7f3a"
STARTED = 1_790_000_000.0
EPOCHS = 32
SITES = [
    {"site": "features.0", "kind": "spatial", "shape": [8, 8, 8]},
    {"site": "features.3", "kind": "spatial", "shape": [16, 4, 4]},
    {"site": "head.1", "kind": "feature", "shape": [32]},
]
FIRST = [
    ("s1", "features.0", "BP009", "residual_block"),
    ("s2", "features.3", "BP016", "squeeze_excitation"),
    ("s3", "features.3", "BP015", "depthwise_separable"),
    ("s4", "head.1", "BP021", "feedforward_gated"),
    ("s5", "features.0", "BP011", "gelu_activation"),
]
SECOND = [
    ("s6", "head.1", "BP014", "highway_gate"),
    ("s7", "features.0", "BP008", "skip_connection"),
]
Record = dict[str, Any]


def quantity(mean: float, half: float, n: int = 360, *, estimated: bool = False) -> Record:
    """A measured quantity in nats with a symmetric interval."""
    return {
        "mean": round(mean, 5),
        "low": round(mean - half, 5),
        "high": round(mean + half, 5),
        "n": n,
        "unit": "nats",
        "paired_by": "sample",
        "estimated": estimated,
    }


def gate(name: str, passed: bool, reason: str, boundary: int, **numbers: float | None) -> Record:
    """A gate's result as the executor writes it."""
    return {
        "name": name,
        "passed": passed,
        "reason": reason,
        "boundary": boundary,
        "numbers": numbers,
    }


class Story:
    """Walks through the run, boundary by boundary, yielding records without their `seq`."""

    def __init__(self) -> None:
        self.random = random.Random(7)
        self.stages: dict[str, str] = {}
        self.seeds: dict[str, tuple[str, str]] = {}
        self.born: dict[str, int] = {}
        self.alpha: dict[str, float] = {}
        self.measured: dict[str, dict[str, Record | None]] = {}
        self.boundary = 0

    def place(self, kind: str, **more: Any) -> Record:
        """A record of this boundary."""
        return {
            "kind": kind,
            "time": round(STARTED + 2.6 * self.boundary + 0.4, 3),
            "run": RUN,
            "boundary": self.boundary,
            "step": self.boundary * 40,
            "epoch": self.boundary,
            **more,
        }

    def move(self, seed: str, stage: str, verdict: Record | None = None) -> Record:
        """A change of stage."""
        site, blueprint = self.seeds[seed]
        record = self.place(
            "transition",
            seed=seed,
            site=site,
            blueprint=blueprint,
            from_stage=self.stages[seed],
            to_stage=stage,
            gate=verdict,
        )
        self.stages[seed] = stage
        return record

    def records(self) -> Iterator[Record]:
        """Every record of the run in order."""
        yield self.place(
            "run_started",
            name="digits",
            policy="heuristic",
            epochs=EPOCHS,
            seed=7,
            device="cpu",
            threads=1,
            deterministic=True,
            host_parameters=1914,
            sites=SITES,
            primary_metric="validation_accuracy",
            resumable="bitwise",
        )
        for self.boundary in range(1, EPOCHS + 1):
            yield from self.act()
            yield self.state()
            yield self.decide()
            if self.boundary % 4 == 0:
                path = f"checkpoints/{self.boundary:06d}"
                yield self.place("checkpoint", path=path, bytes=412_672, ms=11.4)
        yield from self.end()

    def act(self) -> Iterator[Record]:
        """What happens to the seeds at this boundary."""
        b = self.boundary
        if b in (4, 18):
            yield from self.germinate(FIRST if b == 4 else SECOND)
        elif b in (5, 19):
            for seed in self.in_stage("GERMINATED"):
                yield self.move(seed, "TRAINING")
        elif b == 7:
            yield from self.fail("s5", "G1", "2 tensors received no gradient within 20 steps")
        elif b in (8, 22):
            yield from self.judge("s2" if b == 8 else "s6")
        elif b in (9, 10, 11, 23, 24, 25):
            seed = "s2" if b < 12 else "s6"
            self.alpha[seed] = min(1.0, self.alpha[seed] + 1 / 3)
            if b in (11, 25):
                yield self.move(seed, "SHADOWING", gate("ramp", True, "the ramp is complete", b))
        elif b in (12, 26):
            seed = "s2" if b == 12 else "s6"
            ok = gate("G3", True, "shapes and statistics hold on both paths", b, probes=3.0)
            yield self.move(seed, "PROBATIONARY", ok)
        elif b == 16:
            yield from self.keep()
        elif b == 30:
            yield from self.refuse()

    def germinate(self, candidates: list[tuple[str, str, str, str]]) -> Iterator[Record]:
        """Plant a tournament."""
        for seed, site, number, _ in candidates:
            self.seeds[seed] = (site, number)
            self.stages[seed] = "DORMANT"
            self.born[seed] = self.boundary
            self.alpha[seed] = 0.0
            self.measured[seed] = {}
            reason = "certified, allowed here, within the budget"
            yield self.move(seed, "GERMINATED", gate("G0", True, reason, self.boundary))

    def judge(self, winner: str) -> Iterator[Record]:
        """End a tournament: the winner blends, the others are culled."""
        helps = {"s1": 0.011, "s2": 0.062, "s3": -0.031, "s4": 0.024, "s6": 0.018, "s7": 0.006}
        for seed in self.in_stage("TRAINING"):
            clean = quantity(helps[seed], 0.009)
            self.measured[seed]["clean_contribution"] = clean
            if seed == winner:
                reason = "highest clean contribution of its tournament"
                ok = gate("G2", True, reason, self.boundary, clean_low=clean["low"], margin=-0.02)
                yield self.move(seed, "BLENDING", ok)
            elif clean["low"] <= -0.02:
                reason = "clean contribution may be harmful: -0.0400 <= -0.0200 nats"
                yield from self.fail(seed, "G2", reason, clean_low=clean["low"], margin=-0.02)
            else:
                reason = f"lost its tournament to {winner}"
                yield from self.fail(seed, "G2", reason, clean_low=clean["low"], margin=-0.02)

    def fail(self, seed: str, name: str, reason: str, **numbers: float) -> Iterator[Record]:
        """Cull a seed by a failed gate."""
        yield self.move(seed, "CULLED", gate(name, False, reason, self.boundary, **numbers))
        yield self.move(seed, "EMBARGOED")

    def keep(self) -> Iterator[Record]:
        """The first winner passes G4."""
        benefit = self.measured["s2"]["benefit_vs_twin"]
        assert benefit is not None
        reason = "better than its twin by more than the margin"
        ok = gate("G4", True, reason, self.boundary, benefit_low=benefit["low"], margin=0.005)
        yield self.move("s2", "FOSSILIZED", ok)
        yield self.report("s2", "SUCCESS", 4)

    def refuse(self) -> Iterator[Record]:
        """The second winner does not; the run adopts its twin."""
        reason = "no better than its twin after 3 windows"
        yield from self.fail("s6", "G4", reason, benefit_low=-0.0028, margin=0.005)
        yield self.report("s6", "NEUTRAL", 18)

    def report(self, seed: str, outcome: str, command: int) -> Record:
        """A field report about a tournament's winner."""
        rivals = FIRST if seed == "s2" else SECOND
        losers = [
            {
                "site": site,
                "blueprint": number,
                "clean_contribution": self.measured[other].get("clean_contribution"),
                "gate": None if other != "s5" else "G1",
            }
            for other, site, number, _ in rivals
            if other != seed
        ]
        quantities = ("clean_contribution", "dependence", "benefit_vs_twin")
        return self.place(
            "field_report",
            report_id=f"report-{seed}",
            command_id=f"c{command}",
            seed=seed,
            blueprint=self.seeds[seed][1],
            site=self.seeds[seed][0],
            outcome=outcome,
            window=3,
            losers=losers,
            observed_change={"validation_loss": -0.11, "validation_accuracy": 0.031},
            **{name: self.measured[seed].get(name) for name in quantities},
        )

    def state(self) -> Record:
        """The boundary record: metrics and every seed."""
        b, noise = self.boundary, self.random.gauss(0, 0.006)
        grown = 0.06 * (1 - math.exp(-max(0, b - 9) / 1.6))
        host = 0.22 + 1.9 * math.exp(-b / 5.5)
        loss = host - grown + noise
        metrics = {
            "training_loss": round(host - 1.2 * grown - 0.03 + noise, 5),
            "validation_loss": round(loss, 5),
            "validation_accuracy": round(1 - 0.62 * loss / 1.9 - 0.02, 5),
        }
        trial = next((s for s, stage in self.stages.items() if stage in
                      ("BLENDING", "SHADOWING", "PROBATIONARY")), None)  # fmt: skip
        self.measure(trial, grown if b < 17 else 0.001)
        if trial is not None:
            metrics["averaged_loss"] = round(loss - 0.006, 5)
            metrics["twin_loss"] = round(loss - 0.006 + (grown if b < 17 else 0.001), 5)
        parts = {"assembly": 1.1, "decision": 2.2 + abs(noise) * 90, "apply": 0.6, "guard": 0.3}
        parts["total"] = round(sum(parts.values()) + (6.0 if b in (4, 18) else 0.0), 3)
        return self.place(
            "boundary",
            metrics=metrics,
            boundary_ms={name: round(value, 3) for name, value in parts.items()},
            overhead_ratio=round(1.03 + 0.11 * len(self.in_stage("TRAINING")) + abs(noise), 4),
            samples_per_s=round(5200 - 900 * (len(self.in_stage("TRAINING")) > 0) + noise * 9e3, 1),
            parameters=1914 + (656 if self.stages.get("s2") == "FOSSILIZED" else 0),
            learning_rate=round(3e-3 * 0.5 * (1 + math.cos(math.pi * b / EPOCHS)), 6),
            seeds=[self.seed_state(seed) for seed in self.seeds],
        )

    def measure(self, trial: str | None, helps: float) -> None:
        """Take the quantities of the seed on trial."""
        b = self.boundary
        if trial is None or self.stages[trial] == "BLENDING":
            return
        self.measured[trial]["dependence"] = quantity(0.41 if trial == "s2" else 0.22, 0.03)
        if self.stages[trial] == "PROBATIONARY" and b not in (12, 26):
            wobble = self.random.gauss(0, 0.001)
            self.measured[trial]["benefit_vs_twin"] = quantity(helps + wobble, 0.0038)

    def seed_state(self, seed: str) -> Record:
        """A seed as the boundary record lists it."""
        site, blueprint = self.seeds[seed]
        stage = self.stages[seed]
        gone = stage in ("CULLED", "EMBARGOED")
        quantities = ("clean_contribution", "dependence", "benefit_vs_twin")
        return {
            "id": seed,
            "site": site,
            "stage": stage,
            "blueprint": blueprint,
            "kernel": f"{blueprint.lower()}-{site.replace('.', '-')}-9c1e",
            "alpha": None if gone else round(self.alpha[seed], 4),
            "age_epochs": self.boundary - self.born[seed],
            "gates": [],
            **{name: self.measured[seed].get(name) for name in quantities},
        }

    def decide(self) -> Record:
        """The decision record: a tournament twice, otherwise nothing."""
        b = self.boundary
        command: Record = {
            "id": f"c{b}",
            "type": "NO_OP",
            "operation": None,
            "candidates": [],
            "target": None,
        }
        reason = "a trial is running" if 4 <= b < 30 else "the host still learns by itself"
        alternatives = []
        if b in (3, 17):
            planted = FIRST if b == 3 else SECOND
            command |= {
                "type": "SEED",
                "operation": "GERMINATE",
                "candidates": [
                    {"site": site, "blueprint": number, "blend": "residual"}
                    for _, site, number, _ in planted
                ],
            }
            reason = "early start: improvement per boundary is falling" if b == 3 else "plateau"
            alternatives = [{"operation": None, "probability": 0.1, "reason": "wait"}]
        return self.place(
            "decision",
            command=command,
            reason=reason,
            policy="heuristic",
            policy_version="heuristic-1",
            probability=0.9 if alternatives else 1.0,
            alternatives=alternatives,
        )

    def end(self) -> Iterator[Record]:
        """The honest table."""
        rows = [
            ("this run", 0.9611, 0.0071, 2570, 83.2, 12.3e9),
            ("the same host, not growing", 0.9306, 0.0089, 1914, 71.0, 9.1e9),
            ("the final net, from scratch", 0.9472, 0.0081, 2570, 79.9, 11.0e9),
        ]
        yield self.place(
            "run_ended",
            state="completed",
            error=None,
            test={"accuracy": 0.9611, "loss": 0.139},
            parameters=2570,
            wall_s=83.2,
            compute={"host_macs": 9.1e9, "shadow_macs": 1.2e9, "twin_macs": 2.0e9},
            comparison=[
                {"name": name, "metric": "accuracy", "value": a, "low": round(a - h, 4),
                 "high": round(a + h, 4), "n": 360, "parameters": p, "wall_s": w, "macs": m}
                for name, a, h, p, w, m in rows
            ],
        )  # fmt: skip

    def in_stage(self, stage: str) -> list[str]:
        """The seeds in a stage."""
        return [seed for seed, now in self.stages.items() if now == stage]


def numbered() -> list[Record]:
    """The run's records with their `seq`."""
    return [{"seq": seq, **record} for seq, record in enumerate(Story().records(), 1)]


def write(path: Path) -> None:
    """Write the journal afresh."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    journal = Journal.open(path)
    for record in Story().records():
        journal.append(record)
    journal.close()


if __name__ == "__main__":
    write(FIXTURE)
