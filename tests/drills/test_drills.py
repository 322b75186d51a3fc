"""The drills themselves: what they are asked, how they reach in, and how they judge."""

import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from esper_async.drills.__main__ import main
from esper_async.drills.alert_drill import known_alerts
from esper_async.drills.alert_report import ALERTS
from esper_async.drills.audit import Trace
from esper_async.drills.drill import Outcome, UnknownDrillError, _strike, hold
from esper_async.drills.faults import FAULTS
from esper_async.drills.seams import Seams
from esper_async.drills.stage import Stage, StageError
from esper_async.study.bench.cases import chaos

ROOT = Path(__file__).parents[2]


def outcome(**change: object) -> Outcome:
    facts: dict[str, object] = {
        "name": "x", "what": "y", "recovery_s": 1.0, "limit_s": 2.0, "lost": (), **change
    }  # fmt: skip
    return Outcome(**facts)  # type: ignore[arg-type]


def test_an_unknown_drill_is_refused_before_anything_is_started(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(UnknownDrillError, match="no drill 'nothing'; known: training-killed"):
        next(hold(["nothing"], pytest.fail))
    assert main(["nothing"]) == 2
    assert "no drill 'nothing'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "ok"),
    [
        ({}, True),
        ({"limit_s": None, "recovery_s": 99.0}, True),
        ({"recovery_s": 2.1}, False),
        ({"lost": ("a report",)}, False),
    ],
)
def test_a_drill_is_passed_when_nothing_was_lost_in_time(
    change: dict[str, object], ok: bool
) -> None:
    assert outcome(**change).ok is ok


def test_a_drill_that_failed_between_a_stop_and_a_start_does_not_take_the_next_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(_: Stage) -> float:
        raise StageError("that is enough")

    monkeypatch.setattr(Stage, "start", refuses)
    told = _strike(Stage(tmp_path), FAULTS["redis-killed"], Trace("", Counter(), ()))
    assert told.lost == ("that is enough",)


def test_each_fault_says_what_it_does_and_the_benchmark_knows_its_own() -> None:
    assert all(fault.what and fault.name == name for name, fault in FAULTS.items())
    assert set(chaos._DRILLS.values()) <= set(FAULTS)


def test_the_page_names_only_drills_that_there_are() -> None:
    page = (ROOT / "docs" / "operating.md").read_text()
    named = [line.split()[2:] for line in page.splitlines() if "esper-supervisor drill " in line]
    assert named
    known = {*FAULTS, ALERTS, *known_alerts()}
    assert {name for names in named for name in names} <= known


def test_the_seams_step_the_clock_and_slow_the_disk_of_a_running_process(tmp_path: Path) -> None:
    seams = Seams(tmp_path / "seams")
    source = (
        "import os, sys, time\n"
        "for line in sys.stdin:\n"
        "    began = time.monotonic()\n"
        "    with open('file', 'w') as file: os.fsync(file.fileno())\n"
        "    print(time.time(), time.monotonic() - began, flush=True)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", source],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        env=seams.environment({}),
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask() -> tuple[float, float]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write("\n")
            process.stdin.flush()
            clock, took = process.stdout.readline().split()
            return float(clock), float(took)

        assert abs(ask()[0] - time.time()) < 60
        seams.set("wall_offset_s", 3_600.0)
        seams.set("fsync_delay_s", 0.2)
        clock, took = ask()
        assert 3_000 < clock - time.time() < 4_200
        assert took >= 0.2
        seams.set("wall_offset_s", 0.0)
        assert abs(ask()[0] - time.time()) < 60
        process.stdin.close()
