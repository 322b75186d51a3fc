"""What subsystems are to tell, by name, against what a live system exposes at /metrics."""

import re
from contextlib import suppress

import pytest

from docs import metric_list
from esper_async.nissa.telemetry_names import KNOWN
from esper_async.runtime.metrics import prometheus_name
from esper_async.simic.learning import TRAINING, VALIDATION_RESULT
from esper_async.simic.metrics import POLICY_PUBLISHED
from esper_async.testing.harness import Esper
from tests.e2e.conftest import run_of
from tests.nissa.shipped import asked_metrics

pytestmark = [
    pytest.mark.timeout(300),
    pytest.mark.esper(settings={"tolaria.nice": 0, "nissa.alert_every_s": 1.0}),
]

DESIGN = {
    "oona": [
        "publish.latency_ms", "consume.latency_ms", "queue.depth", "publish.dropped",
        "publish.rerouted", "dead_letters", "breaker.state", "conservative_mode",
    ],
    "tolaria": [
        "training.loss", "training.accuracy", "epoch.duration_ms", "boundary.duration_ms",
        "shadow.cost_ratio", "seeds.active", "throughput.samples_per_s", "rollback.count",
        "rollback.duration_ms", "checkpoint.duration_ms", "checkpoint.copy_ms",
        "checkpoint.size_bytes", "checkpoint.memory_bytes", "lr.integrity_violations",
    ],
    "kasmina": [
        "seeds.active", "stage.transitions", "gate.result", "isolation.violations",
        "kernel.fetch_latency_ms", "alpha", "clean_contribution", "dependence", "benefit_vs_twin",
        "commands.refused",
    ],
    "tamiyo": [
        "inference.latency_ms", "risk.score", "risk.level", "decision.total",
        "pause.quota_remaining", "field_report.dispatch_latency_ms", "conservative_mode",
        "policy.version",
    ],
    "simic": [
        "training.loss", "training.policy_loss", "training.value_loss", "training.entropy",
        "training.kl", "replay.size", "experiences.total", "validation.result", "policy.published",
    ],
    "karn": ["template.selection_ms", "blueprint.requests", "breaker.state"],
    "tezzeret": ["compilation.duration_ms", "queue.depth", "jobs.total", "conservative_mode"],
    "urza": [
        "query.duration_ms", "cache.hit_ratio", "assets", "integrity.failures", "breaker.state",
    ],
    "nissa": ["ingest.latency_ms", "telemetry.dropped", "alerts.active", "breaker.state"],
}  # fmt: skip
"""The names of the design, a list for each subsystem."""

UNTIL_IT_HAPPENS = {
    "oona.publish.dropped", "oona.publish.rerouted", "oona.dead_letters", "oona.refused",
    "urza.integrity.failures", "nissa.telemetry.dropped", "nissa.requests.refused",
    "nissa.notifications", "nissa.field_reports.wait_ms", "tezzeret.conservative_mode",
    *TRAINING, VALIDATION_RESULT, POLICY_PUBLISHED,
}  # fmt: skip
"""Announced by name and help from the start; there is no series where nothing has gone wrong, and
nobody learns."""
RARE = {"tolaria.recompiles", "tolaria.compile.duration_ms", "tolaria.compile.given_up"}
"""Of runs whose host is compiled."""


def exposed_as(name: str, families: set[str]) -> str:
    """The exposed name of a telemetry name, which says whether it is a counter."""
    counted = prometheus_name(name, "counter")
    return counted if counted in families else prometheus_name(name)


class Scrapes:
    """What has been exposed so far: names with help, and names with values."""

    def __init__(self) -> None:
        self.families: set[str] = set()
        self.valued: set[str] = set()

    def take(self, text: str) -> None:
        self.families |= set(re.findall(r"^# HELP (\S+) \S", text, re.MULTILINE))
        samples = re.findall(r"^(esper_\w+?)(?:_bucket|_count|_sum)?[{ ]", text, re.MULTILINE)
        self.valued |= set(samples) | set(re.findall(r"^(esper_\w+)[{ ]", text, re.MULTILINE))

    def unanswered(self) -> set[str]:
        """What rules and dashboards ask for and has no value, but for what waits for trouble."""
        waiting = {exposed_as(name, self.families) for name in UNTIL_IT_HAPPENS}
        return asked_metrics() - self.valued - waiting

    def without_value(self, names: set[str]) -> set[str]:
        return {name for name in names if exposed_as(name, self.families) not in self.valued}


async def exposed(esper: Esper) -> str:
    async with esper.http.get("/metrics") as answer:
        assert answer.status == 200
        return await answer.text()


async def test_a_live_system_exposes_every_name_of_the_design_and_every_metric_that_is_asked_for(
    esper: Esper,
) -> None:
    wanted = {f"{part}.{name}" for part, names in DESIGN.items() for name in names}
    valued = (wanted | KNOWN.keys()) - UNTIL_IT_HAPPENS - RARE
    valued -= {"runtime.labels.folded"}
    run = run_of("table_mlp", epochs=24, boundary_every="epoch")
    run["growth"] |= {"g2_margin": -1e9, "g4_margin": -1e9}
    seen = Scrapes()
    run_id = await esper.submit(run)
    await esper.until(lambda s: (s.run(run_id)["epoch"] or 0) >= 8, 120)
    async with esper.http.post(f"/api/runs/{run_id}/rollback") as answer:
        assert answer.status == 202
    registry = esper.supervisor.registry

    def all_told(_: object) -> bool:
        seen.take(registry.exposition()[0].decode())
        return not seen.without_value(valued) and not seen.unanswered()

    with suppress(AssertionError):  # which would not say what is missing
        await esper.until(all_told, 120)
    await esper.ended(run_id)
    text = await exposed(esper)
    seen.take(text)
    assert seen.without_value(valued) == set()
    shown = {exposed_as(name, seen.families) for name in UNTIL_IT_HAPPENS}
    assert shown <= seen.families
    listed = set(re.findall(r"^\| `(esper_\w+)` \|", metric_list.PAGE.read_text(), re.MULTILINE))
    assert {name for name in seen.families if not name.endswith("_created")} <= listed
    assert seen.unanswered() == set()
    _are_bounded_and_of_one_policy(text, run_id)


def _are_bounded_and_of_one_policy(text: str, run_id: str) -> None:
    versions = re.findall(r"^esper_tamiyo_policy_version\{(.*)\} 1\.0$", text, re.MULTILINE)
    assert len(versions) == 1
    assert f'run="{run_id}"' in versions[0]
    actions = set(re.findall(r'^esper_tamiyo_decision_total\{action="(\w+)"', text, re.MULTILINE))
    assert {"NO_OP", "GERMINATE"} <= actions
    assert 'esper_tamiyo_pause_quota_remaining{run="' in text
    assert "esper_runtime_labels_folded_total{" not in text
