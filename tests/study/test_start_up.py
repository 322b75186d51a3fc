"""The start's benchmark: how it reads waiting for a core, and how it judges a busy machine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from esper_async.runtime.processes import queued_s
from esper_async.study.bench.benchmark import Verdict
from esper_async.study.bench.cases.start_up import Took, _help, _prompt, _waited_s
from esper_async.study.bench.up_process import UpError


@pytest.mark.parametrize(
    ("took", "verdict"),
    [
        ([(3.0, 0.0), (9.0, 6.0)], Verdict.PASS),
        ([(4.5, 0.0), (5.0, 0.2)], Verdict.MISS),
        ([(7.0, 4.0), (9.0, 4.0)], Verdict.INCONCLUSIVE),
        ([(9.0, 4.0), (11.0, 6.0)], Verdict.MISS),
    ],
)
def test_a_late_start_is_a_miss_unless_waiting_for_a_core_explains_it(
    took: list[tuple[float, float]], verdict: Verdict
) -> None:
    row = _prompt("start", [Took(*each) for each in took], 4.0)
    assert row.verdict is verdict
    assert row.value == min(wall_s for wall_s, _ in took)


def test_how_long_a_process_waited_can_be_read_when_it_has_ended() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert queued_s(Path(f"/proc/{process.pid}")) == _waited_s(process.pid) >= 0.0


def test_where_the_kernel_tells_nothing_no_waiting_is_assumed() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        assert _waited_s(process.pid) == 0.0


def test_help_that_fails_is_an_error_and_not_a_quick_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        "esper_async.study.bench.cases.start_up.COMMAND",
        (sys.executable, "-c", "raise SystemExit(3)"),
    )
    with pytest.raises(UpError, match="ended with 3"):
        _help(tmp_path)
