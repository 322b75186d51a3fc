"""`drill alerts`: each shipped alert fires on a real fault and resolves; a dead rule is found."""

import re
import subprocess
from pathlib import Path

import pytest

from esper_async.drills.__main__ import main
from esper_async.drills.alert_drill import (
    SHORTER,
    Told,
    UnknownAlertError,
    known_alerts,
    not_provoked,
    provoke_alerts,
)
from esper_async.drills.judges import SHIPPED, shortened
from esper_async.nissa.prometheus import prometheus_program

RULES = SHIPPED / "rules"
QUICK = (
    "kasmina_isolation_violation",
    "training_latency_high",
    "child_lost",
    "disk_low",
    "oona_queue_depth",
    "service_restart_loop",
    "field_report_overdue",
    "told_by_a_part",
    "esper_down",
)
"""Those that fire and resolve within seconds; `drill alerts` holds the others, too."""
FULL_OF_ROOM = """
import sys
if "up" in sys.orig_argv:
    import esper_async.nissa.alert_rules
    esper_async.nissa.alert_rules.DISK_FREE = 0.0
"""
needs_prometheus = pytest.mark.skipif(
    prometheus_program("prometheus") is None, reason="needs Prometheus: apt-get install prometheus"
)


def test_every_shipped_alert_is_provoked() -> None:
    shipped = re.findall(r"- alert: (\w+)", (RULES / "alerts.yml").read_text())
    assert sorted(known_alerts()) == sorted(shipped)


def test_without_a_prometheus_what_it_alone_sees_is_named() -> None:
    assert set(not_provoked(with_prometheus=False)) == {"esper_down"}
    assert not_provoked(with_prometheus=True) == {}


def test_an_alert_that_cannot_be_provoked_is_refused_before_anything_is_started(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UnknownAlertError, match="'nothing': known: tezzeret_conservative_mode"):
        next(provoke_alerts(["nothing"], pytest.fail))
    assert main(["alerts", "child_lots"]) == 2
    assert "the drill cannot provoke 'child_lots'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fired_s", "resolved_s", "ok"), [(1.0, 1.0, True), (1.0, None, False), (None, None, False)]
)
def test_an_alert_passes_when_it_has_fired_and_resolved(
    fired_s: float | None, resolved_s: float | None, ok: bool
) -> None:
    assert Told("disk_low", "nissa", "a fault", fired_s, resolved_s).ok is ok


def test_a_drills_rules_are_the_shipped_ones_with_every_time_shortened(tmp_path: Path) -> None:
    text = (RULES / "alerts.yml").read_text()
    quick = shortened(text, SHORTER)
    assert "for: 15m" in text
    assert "for: 15s" in quick
    assert "_wait_seconds >= 5\n" in quick
    windows = re.findall(r"\[(\w+)\]", shortened((RULES / "recording.yml").read_text(), SHORTER))
    assert {"5s", "30s", "60s", "360s", "1440s"} <= set(windows)
    assert not re.search(r"for: \d+[mhd]", quick)
    with pytest.raises(ValueError, match="not a multiple"):
        shortened("for: 10s", SHORTER)


@needs_prometheus
def test_prometheus_takes_the_shortened_rules(tmp_path: Path) -> None:
    for name in ("recording.yml", "alerts.yml"):
        (tmp_path / name).write_text(shortened((RULES / name).read_text(), SHORTER))
    program = prometheus_program("promtool")
    assert program is not None
    subprocess.run(
        [program, "check", "rules", *map(str, tmp_path.iterdir())], check=True, capture_output=True
    )


@pytest.mark.full
@needs_prometheus
def test_alerts_fire_on_their_faults_and_resolve_by_nissa_and_by_a_real_prometheus() -> None:
    rows = list(provoke_alerts(QUICK, print))
    assert [row for row in rows if not row.ok] == []
    judged = {(row.alert, row.by) for row in rows}
    assert judged == {(name, by) for name in QUICK for by in ("nissa", "prometheus")} - {
        ("esper_down", "nissa")
    }


@pytest.mark.full
@needs_prometheus
def test_a_rule_whose_threshold_is_out_of_reach_makes_the_drill_fail(tmp_path: Path) -> None:
    for path in RULES.iterdir():
        (tmp_path / path.name).write_text(path.read_text().replace("ratio < 0.05", "ratio < 0.0"))
    rows = list(
        provoke_alerts(["disk_low"], print, mutation=FULL_OF_ROOM, rules=tmp_path, fires_s=15.0)
    )
    assert {row.by for row in rows} == {"nissa", "prometheus"}
    assert not any(row.ok or row.fired_s for row in rows)
