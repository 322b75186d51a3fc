"""Is the API what its OpenAPI document says, whatever it is asked? schemathesis asks it.

A Nissa in a process of its own is asked by a fuzzer that reads the document: half of the time with
ids that nobody has, half with those of a run that goes on. No answer may be a 5xx, undocumented, or
of another shape than documented; no change may be done without the token.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from esper_async.study.bench.benchmark import (
    Bar,
    Benchmark,
    Effort,
    Mutant,
    Row,
    judged,
    shown,
    wants,
)
from esper_async.study.bench.nissa_house import TOKEN
from esper_async.study.bench.nissa_process import nissa_process
from esper_async.study.bench.up_process import run_in_every_python

_BOUNDS = {
    Effort.SHORT: ("--max-time=30", "--max-failures=5"),
    Effort.FULL: ("--max-time=300",),
}
"""For each kind of ids. A few failures are enough for the short form: its mutants end soon."""
_EXCLUDED = (  # the document cannot say which ids exist, nor what of a body nobody could know
    "negative_data_rejection", "positive_data_acceptance", "use_after_free",
    "ensure_resource_availability",
    "allow_header_conformance",  # /dead-letters/replay is a letter's path, too, with its methods
)  # fmt: skip
_FAILED = "answers that are a 5xx, undocumented or of another shape"
_ASKED = "requests that were made"
_IDS = {"ids of strangers": "", "ids of a run": '[parameters]\nrun = "lag"\n'}
"""What the fuzzer is told of ids, by whose they are."""


def measure(effort: Effort) -> list[Row]:
    """Have the API asked, with ids of strangers and with a run's."""
    rows, asked, operations = [], 0, 0
    with (
        tempfile.TemporaryDirectory(prefix="esper-fuzz-") as folder,
        nissa_process(Path(folder) / "state", packets_per_s=20.0) as url,
    ):
        for number, (ids, configuration) in enumerate(_IDS.items()):
            figure = f"{_FAILED}, {ids}"
            if not wants(figure):
                continue
            place = Path(folder) / str(number)
            place.mkdir()
            (place / "schemathesis.toml").write_text(configuration)
            told = _fuzz(url, place, _BOUNDS[effort])
            asked += told["test_cases"]["generated"]
            operations = told["operations"]["tested"]
            failures = [str(each.get("title", each))[:80] for each in told["failures"]]
            rows.append(
                judged(figure, len(failures), "", Bar("at most", 0), note="; ".join(failures[:3]))
            )
    return [*rows, shown(_ASKED, asked, "", note=f"{operations} operations")]


def _fuzz(url: str, place: Path, bounds: tuple[str, ...]) -> dict[str, Any]:
    """Return the fuzzer's report.

    Raises:
        FileNotFoundError: schemathesis is not installed; it comes with the extra `test`.
        RuntimeError: it could not do its work.
    """
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent))
    if program is None:
        raise FileNotFoundError("needs schemathesis: pip install 'esper-async[test]'")
    report = place / "report.json"
    done = subprocess.run(
        [
            program, "run", f"{url}/api/openapi.json", *bounds, "--no-shrink",
            "--seed=7", "-H", f"Authorization: Bearer {TOKEN}", "--continue-on-failure",
            f"--exclude-checks={','.join(_EXCLUDED)}", "--report=json",
            f"--report-json-path={report}",
        ],
        cwd=place, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if not report.exists():
        raise RuntimeError(f"schemathesis failed: {done.stdout[-800:]}{done.stderr[-800:]}")
    told: dict[str, Any] = json.loads(report.read_text())
    return told


_BREAKS = """
from esper_async.nissa import event_store
event_store.match_expression = lambda words: str(int("x"))
"""
_FORGETFUL = """
from esper_async.nissa import openapi
whole = openapi.refusals_of
openapi.refusals_of = lambda route: [code for code in whole(route) if code != 404]
"""

BENCHMARK = Benchmark(
    name="api-fuzz",
    question="is the API what its OpenAPI document says, whatever it is asked?",
    measure=measure,
    mutants=(
        Mutant(
            "a search that breaks",
            "a search raises what nobody expects",
            lambda: run_in_every_python(_BREAKS),
            fails=(f"{_FAILED}, ids of strangers",),
        ),
        Mutant(
            "refusals that the document does not know",
            "no operation is said to answer 404",
            lambda: run_in_every_python(_FORGETFUL),
            fails=(f"{_FAILED}, *",),
        ),
    ),
    timed=False,
)
