"""The first step's benchmark: what it reads from outside, and how it judges a busy machine."""

import subprocess
import sys
from pathlib import Path

import pytest

from esper_async.study.bench import up_process
from esper_async.study.bench.benchmark import Verdict
from esper_async.study.bench.cases.first_step import Start, _environment, _judged, _Queue
from esper_async.study.bench.up_process import UpError, run_in_every_python, started


@pytest.mark.parametrize(
    ("steps", "waited_s", "plain_s", "verdict"),
    [
        ([4.0, 9.0], 0.0, 2.0, Verdict.PASS),
        ([4.0, 9.0], 0.0, 9.0, Verdict.PASS),
        ([6.0, 9.0], 0.0, 2.0, Verdict.MISS),
        ([6.0, 9.0], 2.0, 2.0, Verdict.INCONCLUSIVE),
        ([6.0, 9.0], 0.0, 4.0, Verdict.MISS),
        ([6.0, 9.0], 0.0, 4.5, Verdict.INCONCLUSIVE),
        ([17.0, 19.0], 2.0, 6.0, Verdict.MISS),
        ([69.0, 83.0], 63.0, 5.0, Verdict.INCONCLUSIVE),
        ([35.0, 36.0], 5.0, 4.0, Verdict.MISS),
    ],
)
def test_late_is_a_miss_unless_waiting_or_a_slow_machine_explains_it(
    steps: list[float], waited_s: float, plain_s: float, verdict: Verdict
) -> None:
    warm = [Start(step_s, waited_s) for step_s in steps]
    assert _judged("a net", warm, plain_s, Start(20.0, 0.0)).verdict is verdict


def test_waiting_counts_for_the_supervisor_until_it_has_a_training_process(tmp_path: Path) -> None:
    def process(pid: int, *, waited_s: int, name: str, children: str = "") -> None:
        folder = tmp_path / str(pid)
        (folder / "task" / str(pid)).mkdir(parents=True, exist_ok=True)
        (folder / "task" / str(pid) / "children").write_text(children)
        (folder / "schedstat").write_text(f"7 {waited_s * 10**9} 3\n")
        (folder / "cmdline").write_text(f"python\0-m\0something\0{name}\0")

    queue = _Queue(1, proc=tmp_path)
    queue.look()
    assert queue.waited_s == 0.0
    process(1, waited_s=2, name="up", children="2 ")
    process(2, waited_s=50, name="redis")
    queue.look()
    assert queue.waited_s == 2.0
    process(1, waited_s=9, name="up", children="2 3 ")
    process(3, waited_s=1, name="train-run-1")
    queue.look()
    assert queue.waited_s == 3.0


def test_bytecode_is_written_even_where_the_benchmark_itself_must_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    environment = _environment(tmp_path)
    assert "PYTHONDONTWRITEBYTECODE" not in environment
    assert environment["PYTHONPYCACHEPREFIX"] == str(tmp_path)


def test_a_process_that_ends_too_soon_is_an_error_with_what_it_said(tmp_path: Path) -> None:
    with (
        pytest.raises(UpError, match=r"(?s)ended with 2 before it was ready: .*--no-such-flag"),
        started(tmp_path, "--no-such-flag") as up,
    ):
        up.until(up.ready, "it was ready", patience_s=60)


def test_what_does_not_happen_in_time_is_an_error_and_the_process_is_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        up_process, "COMMAND", (sys.executable, "-c", "import time; time.sleep(60)")
    )
    with pytest.raises(UpError, match=r"had not come to: a miracle"), started(tmp_path) as up:
        up.until(lambda: False, "a miracle", patience_s=0.1)
    assert up.process.returncode is not None


def test_a_mutant_reaches_every_python_that_is_started(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', ''], check=True)"
    with run_in_every_python(f"open({str(mark)!r}, 'a').write('x')\n"):
        subprocess.run([sys.executable, "-c", child], check=True)
    assert mark.read_text() == "xx"
