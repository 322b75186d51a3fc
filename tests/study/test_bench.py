"""The benchmark harness: verdicts, timing, mutants, exit codes."""

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from esper_async.study.bench import registry, runner
from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    Verdict,
    judged,
    replaced,
    shown,
    wants,
)
from esper_async.study.bench.bus_load import rate_row
from esper_async.study.bench.cases.static_overhead import MOST_BOUNDARY_MS, boundary_doubt
from esper_async.study.bench.command import main
from esper_async.study.bench.interleave import (
    BEYOND_NOISE,
    CONTROL_TOLERANCE,
    Comparison,
    Lap,
    Rounds,
    interleaved,
)
from esper_async.study.bench.report import measured_commit, print_tables, to_json
from esper_async.study.bench.runner import BenchmarkResult, run_benchmarks
from esper_async.study.statistics import Estimate

STATE = {"broken": False, "works": True}


def answers(good: bool, *, note: str = "", doubt: str = "") -> Row:
    return judged("answers", float(good), "", Bar("at least", 1.0), note=note, doubt=doubt)


def measure(effort: Effort) -> list[Row]:
    return [
        answers(STATE["works"] and not STATE["broken"], note=effort.value),
        shown("questions", 1.0, ""),
    ]


@contextmanager
def breaking() -> Iterator[None]:
    STATE["broken"] = True
    try:
        yield
    finally:
        STATE["broken"] = False


@contextmanager
def harmless() -> Iterator[None]:
    yield


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    mutants = {
        "toy": (Mutant("broken", "gives no answer", breaking, fails=("answers",)),),
        "blind": (Mutant("harmless", "changes nothing", harmless, fails=("answers",)),),
        "vague": (Mutant("broken", "gives no answer", breaking),),
    }
    monkeypatch.setattr(runner, "CASES", dict.fromkeys(mutants, ""))
    monkeypatch.setattr(
        runner,
        "load_benchmark",
        lambda name: Benchmark(name, "does it answer?", measure, mutants[name]),
    )
    yield
    STATE.update(broken=False, works=True)


@pytest.mark.parametrize(
    ("kind", "value", "interval", "verdict"),
    [
        ("at most", 1.0, None, Verdict.PASS),
        ("at most", 1.1, None, Verdict.MISS),
        ("at least", 1.0, None, Verdict.PASS),
        ("at least", 0.9, None, Verdict.MISS),
        ("at most", 0.9, (0.8, 1.0), Verdict.PASS),
        ("at most", 0.9, (0.8, 1.1), Verdict.INCONCLUSIVE),
        ("at most", 1.2, (1.1, 1.3), Verdict.MISS),
        ("at least", 1.2, (0.9, 1.3), Verdict.INCONCLUSIVE),
        ("at most", math.nan, None, Verdict.MISS),
        ("at least", math.nan, None, Verdict.MISS),
        ("at most", math.nan, (math.nan, math.nan), Verdict.MISS),
        ("at most", math.inf, None, Verdict.MISS),
    ],
)
def test_a_bar_judges_the_whole_interval(
    kind: str, value: float, interval: tuple[float, float] | None, verdict: Verdict
) -> None:
    assert Bar(kind, 1.0).judge(value, interval) is verdict  # type: ignore[arg-type]


def test_a_bar_is_on_the_ratio_where_there_is_a_baseline() -> None:
    row = judged("cost", 12.0, "ms", Bar("at most", 1.03), baseline=10.0)
    assert row.ratio == pytest.approx(1.2)
    assert row.verdict is Verdict.MISS


def test_a_ratio_measured_pair_by_pair_is_the_one_that_is_shown_and_judged() -> None:
    row = judged("cost", 12.0, "ms", Bar("at most", 1.03), baseline=10.0, ratio=1.02)
    assert row.ratio == 1.02
    assert row.verdict is Verdict.PASS


def test_a_doubtful_measurement_is_inconclusive_whatever_it_says() -> None:
    assert judged("x", 5.0, "", Bar("at most", 1.0), doubt="noise").verdict is Verdict.INCONCLUSIVE


def rounds(first: list[float], middle: list[float], last: list[float]) -> Rounds:
    return Rounds(*([Lap(value, value) for value in laps] for laps in (first, middle, last)))


@given(st.floats(0.5, 2.0), st.floats(-0.001, 0.001))
@settings(max_examples=10, deadline=None)
def test_a_slow_drift_cancels_in_the_ratio(ratio: float, drift: float) -> None:
    starts = [1.0 + 3 * drift * index for index in range(20)]
    compared = rounds(
        starts,
        [ratio * (start + drift) for start in starts],
        [start + 2 * drift for start in starts],
    ).compare("cpu_s")
    assert compared.ratio.value == pytest.approx(ratio)
    assert compared.doubt(limit=1.03) == ""


def test_a_control_that_is_off_by_more_than_a_percent_casts_doubt() -> None:
    compared = rounds([1.0] * 9, [1.0] * 9, [1.02] * 9).compare("wall_s")
    assert "A/A control off by 2.0%" in compared.doubt(limit=1.03)


def test_what_is_far_over_its_limit_is_beyond_the_doubt_that_a_noisy_control_casts() -> None:
    assert rounds([1.0] * 9, [1.3] * 9, [1.02] * 9).compare("cpu_s").doubt(limit=1.03) == ""
    assert rounds([1.0] * 9, [1.1] * 9, [1.02] * 9).compare("cpu_s").doubt(limit=1.03)


def test_what_is_far_below_its_limit_is_beyond_that_doubt_too() -> None:
    assert rounds([1.0] * 9, [0.5] * 9, [1.02] * 9).compare("cpu_s").doubt(limit=1.03) == ""
    assert rounds([1.0] * 9, [0.97] * 9, [1.02] * 9).compare("cpu_s").doubt(limit=1.03)


@given(st.floats(0.5, 2.0), st.floats(0.8, 1.25))
@settings(max_examples=100, deadline=None)
def test_a_control_that_is_off_leaves_only_verdicts_that_it_cannot_have_made(
    ratio: float, control: float
) -> None:
    """Off by 5 times as much as it is, in either direction, the machine would say the same."""
    compared = Comparison(
        Estimate(ratio, ratio - 0.005, ratio + 0.005, 9),
        Estimate(control, control, control, 9),
        1.0,
        1.0,
    )
    off, limit = abs(control - 1.0), 1.03
    row = judged(
        "x", ratio, "", Bar("at most", limit), ratio=ratio,
        interval=(compared.ratio.low, compared.ratio.high), doubt=compared.doubt(limit),
    )  # fmt: skip
    if off > CONTROL_TOLERANCE and row.verdict is not Verdict.INCONCLUSIVE:
        for shift in (-BEYOND_NOISE * off, BEYOND_NOISE * off):
            assert Bar("at most", limit).judge(ratio + shift, None) is row.verdict


@given(st.floats(0.0, 40.0), st.floats(0.0, 0.1), st.floats(0.0, 5.0))
@settings(max_examples=100, deadline=None)
def test_a_boundary_is_believed_as_far_as_its_control_and_the_disk_allow(
    took_ms: float, off: float, sync_ms: float
) -> None:
    estimate = Estimate(took_ms, took_ms - 0.5, took_ms + 0.5, 9)
    noise_ms = off * 60.0
    doubt = boundary_doubt(estimate, noise_ms, 60.0, sync_ms)
    if off > CONTROL_TOLERANCE and not doubt:
        for shift_ms in (-BEYOND_NOISE * noise_ms, BEYOND_NOISE * noise_ms):
            assert (took_ms + shift_ms > MOST_BOUNDARY_MS) == (took_ms > MOST_BOUNDARY_MS)


def test_a_boundary_far_below_its_bar_passes_though_the_control_is_off() -> None:
    took = Estimate(2.9, 1.7, 3.6, 9)
    assert boundary_doubt(took, 0.012 * 60.0, 60.0, 0.0) == ""
    assert boundary_doubt(took, 0.012 * 60.0, 60.0, 3.0) == ""  # a slow disk makes none quicker
    assert "off by 3.0%" in boundary_doubt(took, 0.03 * 60.0, 60.0, 0.0)


@pytest.mark.parametrize(
    ("took", "last", "verdict"),
    [
        (1.02, 1.0, Verdict.PASS),
        (1.25, 1.0, Verdict.MISS),
        (1.02, 1.06, Verdict.INCONCLUSIVE),  # the control is off
        (1.20, 1.06, Verdict.INCONCLUSIVE),  # by as much as could explain it
        (2.00, 1.06, Verdict.MISS),
    ],
)
def test_a_rate_is_believed_as_far_as_its_control_allows(
    took: float, last: float, verdict: Verdict
) -> None:
    compared = rounds([1.0] * 9, [took] * 9, [last] * 9).compare("wall_s")
    row = rate_row("rate", compared, 100, 0.9, note="")
    assert row.verdict is verdict
    assert row.ratio == pytest.approx((1.0 + last) / 2 / took)


def test_rounds_that_are_not_whole_are_refused() -> None:
    with pytest.raises(ValueError, match="unequal laps: 1, 2, 1"):
        rounds([1.0], [1.0, 1.0], [1.0]).compare("cpu_s")
    with pytest.raises(ValueError, match="at least 1"):
        interleaved(lambda: None, lambda: None, rounds=0)


def test_rounds_run_the_baseline_before_and_after() -> None:
    order: list[str] = []
    timed = interleaved(lambda: order.append("a"), lambda: order.append("b"), rounds=2, warmup=1)
    assert "".join(order) == "aba" * 3
    assert len(timed.before) == len(timed.middle) == len(timed.after) == 2


def test_work_twice_as_long_is_measured_as_about_twice_as_long() -> None:
    def work(amount: int) -> None:
        sum(range(amount))

    timed = interleaved(lambda: work(40_000), lambda: work(80_000), rounds=30)
    assert 1.6 < timed.compare("cpu_s").ratio.value < 2.4


@pytest.mark.usefixtures("toy")
def test_a_mutant_is_caught_by_a_miss_and_leaves_nothing_broken() -> None:
    (result,) = run_benchmarks(["toy"], mutants=True)
    assert result.ok
    assert [mutant.caught for mutant in result.mutants] == [True]
    assert not STATE["broken"]
    assert result.rows[0].note == "full"
    assert result.mutants[0].rows[0].note == "short"


SPEED_MISSED = judged("speed", 0.0, "", Bar("at least", 1.0))


@pytest.mark.parametrize(
    ("fails", "rows", "escapes"),
    [
        (("answers",), [answers(False)], []),
        (("answers",), [answers(True), SPEED_MISSED], ["answers: pass"]),
        (("answers",), [answers(False, doubt="noise")], ["answers: inconclusive"]),
        (("answers",), [SPEED_MISSED], ["answers: there is no such row"]),
        (("*",), [answers(True), SPEED_MISSED], ["answers: pass"]),
        (("*",), [answers(False), SPEED_MISSED, shown("questions", 1.0, "")], []),
        (("answers", "sp*"), [answers(False)], ["sp*: there is no such row"]),
        ((), [answers(True), SPEED_MISSED], []),
        ((), [answers(True)], ["no row is a miss"]),
    ],
)
def test_a_mutant_is_caught_when_every_row_that_it_names_is_a_miss(
    fails: tuple[str, ...], rows: list[Row], escapes: list[str]
) -> None:
    assert Mutant("broken", "", breaking, fails).escapes(rows) == escapes


def test_a_mutant_that_benchmarks_share_fails_other_rows_in_each() -> None:
    shared = Mutant("broken", "gives no answer", breaking)
    assert shared.failing("answers").must_fail("answers")
    assert not shared.must_fail("answers")


def benchmark_of(*verdicts: list[Row], fails: tuple[str, ...]) -> Benchmark:
    """Return one whose successive measurements give these rows."""
    measured = iter(verdicts)
    mutant = Mutant("broken", "gives no answer", harmless, fails)
    return Benchmark("toy", "does it answer?", lambda _: next(measured), (mutant,))


def run_one(monkeypatch: pytest.MonkeyPatch, benchmark: Benchmark) -> BenchmarkResult:
    monkeypatch.setattr(runner, "load_benchmark", lambda _: benchmark)
    (result,) = run_benchmarks(["toy"], mutants=True, short=True)
    return result


def test_a_bar_that_no_mutant_is_there_to_fail_fails_the_benchmark_and_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    speed = judged("speed", 1.0, "", Bar("at least", 1.0))
    rows = [[answers(True), speed], [answers(False), speed]]
    result = run_one(monkeypatch, benchmark_of(*rows, fails=("answers",)))
    assert [mutant.caught for mutant in result.mutants] == [True]
    assert result.unguarded == ["speed"]
    assert not result.ok
    assert result.to_json()["unguarded"] == ["speed"]


def test_while_a_mutant_is_measured_only_the_figures_that_it_must_fail_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[bool, bool]] = []

    def measure_some(_: Effort) -> list[Row]:
        asked.append((wants("answers"), wants("speed", "size")))
        return [answers(len(asked) == 1)]

    mutant = Mutant("broken", "gives no answer", harmless, ("ans*",))
    assert run_one(monkeypatch, Benchmark("toy", "does it answer?", measure_some, (mutant,))).ok
    assert asked == [(True, True), (True, False)]
    assert wants("speed")


def test_a_mutant_left_inconclusive_by_a_busy_machine_is_run_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = [[answers(True)], [answers(False, doubt="noise")], [answers(False)]]
    assert run_one(monkeypatch, benchmark_of(*rows, fails=("answers",))).ok


def test_a_mutant_that_stays_inconclusive_is_not_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [[answers(True)], *[[answers(False, doubt="noise")]] * 3]
    result = run_one(monkeypatch, benchmark_of(*rows, fails=("answers",)))
    assert result.mutants[0].escapes == ("answers: inconclusive",)
    assert not result.ok


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["toy"], "bench toy"),
        (["toy", "--mutants"], "bench toy --mutants"),
        (["toy", "--short"], "bench toy --short"),
        (["toy", "--mutants", "--short"], "bench toy --short --mutants"),
    ],
)
def test_the_report_says_what_to_type_to_get_the_same_again(
    arguments: list[str], command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    assert f"reproduce: bin/esper-supervisor {command}\n" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    (document,) = json.loads(capsys.readouterr().out)["benchmarks"]
    assert document["command"] == f"bin/esper-supervisor {command}"


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("arguments", "works", "code"),
    [
        (["toy"], True, 0),
        (["toy", "--mutants"], True, 0),
        (["toy"], False, 1),
        (["blind"], True, 0),
        (["blind", "--mutants"], True, 1),
        (["vague"], True, 0),
        (["vague", "--mutants"], True, 1),
        ([], True, 0),
    ],
)
def test_the_exit_code_tells_of_misses_and_of_mutants_not_caught(
    arguments: list[str], works: bool, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    STATE["works"] = works
    assert main(arguments) == code
    assert "does it answer?" in capsys.readouterr().out


@pytest.mark.usefixtures("toy")
def test_json_is_one_document_on_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["toy", "blind", "--json", "--mutants"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert document["commit"] == measured_commit()
    assert [entry["name"] for entry in document["benchmarks"]] == ["toy", "blind"]
    assert document["benchmarks"][1]["mutants"][0]["caught"] is False


def test_what_a_benchmark_logs_does_not_come_between() -> None:
    script = (
        "import runpy, sys, structlog\n"
        "from esper_async.study.bench import command\n"
        "def noisy(*names, **options):\n"
        "    structlog.get_logger().warning('redis_away')\n"
        "    return []\n"
        "command.run_benchmarks = noisy\n"
        "sys.argv = ['bench', '--json']\n"
        "runpy.run_module('esper_async.study.bench', run_name='__main__')\n"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, check=True, capture_output=True, timeout=60)
    document = json.loads(ended.stdout)
    assert (document["ok"], document["benchmarks"]) == (True, [])
    assert b"redis_away" in ended.stderr


def test_an_unknown_benchmark_is_refused_with_the_nearest_name(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["isolaton"]) == 2
    assert "did you mean 'isolation'?" in capsys.readouterr().err


def test_every_registered_benchmark_loads_under_its_own_name() -> None:
    for name in registry.CASES:
        assert registry.load_benchmark(name).name == name


def test_tables_show_figures_verdicts_mutants_and_how_to_reproduce() -> None:
    row = judged("cost", 12.0, "ms", Bar("at most", 1.03), baseline=10.0, interval=(1.1, 1.3))
    result = BenchmarkResult(
        "toy",
        "does it answer?",
        Effort.SHORT,
        [row],
        0.0,
        [runner.MutantResult("broken", "gives no answer", ("cost: pass",), (row,))],
        ["speed"],
    )
    console = Console(width=120, record=True, force_terminal=False, file=None, quiet=False)
    print_tables([result], console)
    text = console.export_text()
    for part in ("cost", "1.200", "≤ 1.03", "miss", "NOT CAUGHT", "cost: pass"):
        assert part in text
    assert "no mutant is there to fail speed" in text
    assert "reproduce: bin/esper-supervisor bench toy --short --mutants" in text
    assert json.loads(to_json([result]))["ok"] is False


def test_replacing_puts_the_original_back() -> None:
    original = math.sqrt
    with replaced("math.sqrt", lambda _: 1.0):
        assert math.sqrt(9) == 1.0
    assert math.sqrt is original


def test_help_loads_no_torch() -> None:
    script = (
        "import sys\n"
        "from esper_async.study.bench.command import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "assert 'torch' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, timeout=60)
