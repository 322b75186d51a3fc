"""The drills themselves: what they are asked, how they reach in, and how they judge."""

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from esper_async.drills import drill, fault, faults
from esper_async.drills.__main__ import main
from esper_async.drills.alert_drill import known_alerts
from esper_async.drills.alert_report import ALERTS
from esper_async.drills.audit import Trace, unpaired
from esper_async.drills.drill import Outcome, UnknownDrillError, _strike, hold
from esper_async.drills.fault import Overcome
from esper_async.drills.faults import FAULTS
from esper_async.drills.seams import Seams
from esper_async.drills.soak import Soaked
from esper_async.drills.soak import _strike as _strike_in_soak
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
        ({"late": ("the start",)}, False),
    ],
)
def test_a_drill_is_passed_when_nothing_was_lost_in_time(
    change: dict[str, object], ok: bool
) -> None:
    assert outcome(**change).ok is ok


def test_a_command_that_was_carried_out_has_one_field_report_and_no_other_has() -> None:
    def decision(command: str, operation: str | None, boundary: int) -> dict[str, object]:
        told = {"id": command, "operation": operation}
        return {"kind": "decision", "boundary": boundary, "command": told}

    def report(command: str) -> dict[str, object]:
        return {"kind": "field_report", "boundary": 9, "command_id": command}

    fine = [
        decision("c1", None, 1),
        decision("c2", "GERMINATE", 2),
        decision("c3", "CULL", 3),
        {"kind": "command_refused", "boundary": 3},
        decision("c4", "PAUSE", 4),
        report("c2"),
    ]
    assert unpaired(fine) == ()
    assert unpaired([*fine, report("c2")]) == ("c2 has 2 field reports",)
    assert unpaired([*fine, decision("c5", "CULL", 5)]) == ("c5 has 0 field reports",)


def test_a_drill_that_this_machine_cannot_hold_is_told_and_left_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    @contextmanager
    def stage(*_: object, **__: object) -> Iterator[tuple[Stage, Trace]]:
        yield Stage(tmp_path), Trace("", Counter(), ())

    monkeypatch.setattr(drill, "staged", stage)
    monkeypatch.setattr(Stage, "start_if_stopped", lambda _: None)
    monkeypatch.setattr(drill, "ending", lambda _: outcome(name="the end"))
    here = replace(FAULTS["stopped-compiling"], hindrance=lambda: "no compiler")
    monkeypatch.setitem(FAULTS, here.name, here)
    told: list[str] = []
    assert [each.name for each in hold([here.name], told.append)] == ["the end"]
    assert told[0] == "stopped-compiling: not held: no compiler"


def test_redis_counts_as_back_once_whoever_read_from_it_reads_again() -> None:
    """Ready alone says little: a service is ready while its reader still waits to reconnect."""
    commands = ["ping", "xreadgroup"]

    class Server:
        def __enter__(self) -> "Server":
            return self

        def __exit__(self, *_: object) -> None:
            return None

        def client_list(self) -> list[dict[str, str]]:
            if not commands:
                raise ConnectionError
            return [{"cmd": command} for command in commands]

    pids = iter((7, 8, 8, 8))
    stage = SimpleNamespace(redis=Server, redis_pid=lambda: next(pids), ready=lambda: True)
    overcome = faults._serves_again(stage, 7, 2)  # type: ignore[arg-type]
    assert not overcome(), "the old server still runs"
    assert not overcome(), "one of two reads"
    commands.append("xreadgroup")
    assert overcome()
    commands.clear()
    assert not overcome(), "it does not answer"


class Waiting(Stage):
    """A stage whose run has always just ended when a fault looks for what it is to strike."""

    over = False

    def ended(self, run_id: str) -> bool:
        return self.over

    def until(self, happened: object, what: str, patience_s: float) -> float:
        self.over = False
        return 0.0


def test_a_soak_does_not_put_a_fault_back_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A drill that could not be held at all once went unseen: each time the run had ended."""
    stage = Waiting(tmp_path)

    def never(at: Stage, run_id: str) -> Overcome:
        stage.over = True
        raise StageError("no forge at work")

    monkeypatch.setitem(FAULTS, "redis-killed", replace(FAULTS["redis-killed"], strike=never))
    soaked, bag = Soaked(), ["redis-killed"]
    for _ in range(3):
        _strike_in_soak(stage, "r", bag, soaked, lambda _: None)
        assert bag == ["redis-killed"]
    with pytest.raises(StageError, match="no forge at work"):
        _strike_in_soak(stage, "r", bag, soaked, lambda _: None)
    assert soaked.missed == {"redis-killed": 4}


@pytest.mark.parametrize(("took_s", "late"), [(9.9, []), (10.1, ["told to stop"])])
def test_a_stop_that_takes_too_long_is_late_and_no_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, took_s: float, late: list[str]
) -> None:
    now = iter((0.0, took_s))
    monkeypatch.setattr(fault, "time", SimpleNamespace(monotonic=lambda: next(now)))
    monkeypatch.setattr(Stage, "stop", lambda _: 0)
    monkeypatch.setattr(fault, "gone", lambda *_: [])
    stage = Stage(tmp_path)
    fault.stop_in_time(stage)
    assert [each.split(",")[0] for each in stage.late] == late


@pytest.mark.parametrize(
    ("code", "left", "told"), [(1, [], "ended with 1"), (0, ["g++ a.cpp"], "left behind: g")]
)
def test_a_stop_with_another_code_or_with_an_orphan_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, left: list[str], told: str
) -> None:
    monkeypatch.setattr(Stage, "stop", lambda _: code)
    monkeypatch.setattr(fault, "gone", lambda *_: left)
    with pytest.raises(StageError, match=told):
        fault.stop_in_time(Stage(tmp_path))


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


def test_a_drills_disk_is_as_full_as_the_drill_says_however_full_the_machines_is(
    tmp_path: Path,
) -> None:
    seams = Seams(tmp_path / "seams")
    source = "import shutil; all = shutil.disk_usage('.'); print(all.free / all.total)"

    def share_left() -> float:
        told = subprocess.check_output(
            [sys.executable, "-c", source], cwd=tmp_path, env=seams.environment({}), text=True
        )
        return float(told)

    assert share_left() == pytest.approx(0.5)
    seams.set("disk_taken", 0.01)
    assert share_left() == pytest.approx(0.99)
    seams.set("disk_taken", 0.97)
    assert share_left() == pytest.approx(0.03)


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
