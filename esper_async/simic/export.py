"""`python -m esper_async.simic.export STATE_DIR FILE.parquet`: steps and rewards as a table.

One row a step, with the version of the formula that computed its reward, also in the file's
metadata (`esper.reward_version`). Needs the extra `parquet`; nothing else imports pyarrow.
"""

import argparse
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from esper_async.leyline import DecisionRecord, FieldReport
from esper_async.simic.draws import draw_of
from esper_async.simic.evidence import Measured
from esper_async.simic.experience import Experience
from esper_async.simic.reward import FORMULA_VERSION
from esper_async.simic.schema import Query, operation_of, outcome_of
from esper_async.simic.store import ExperienceStore

VERSION_KEY = "esper.reward_version"
_PAGE = 2_000
_BOUNDS = ("mean", "low", "high")
_OF_TYPE = {
    "string": (
        "run", "command", "operation", "policy", "policy_version", "report", "seed", "site",
        "blueprint", "outcome",
    ),
    "int64": ("chosen", "boundary", "global_step", "reward_version"),
    "float64": (
        "idle_probability", "decided_at", "log_probability", "value",
        *(f"benefit_{bound}" for bound in _BOUNDS), *(f"contribution_{bound}" for bound in _BOUNDS),
        "parameter_ratio", "compute_boundaries", "terminal_gain",
        "reward_benefit", "reward_rent", "reward_terminal", "reward_budget", "reward",
    ),
    "bool_": ("kept",),
}  # fmt: skip
"""The columns, by their Arrow type."""


class MissingExtraError(RuntimeError):
    """pyarrow is not installed; the message says what to install."""


def export_parquet(store: ExperienceStore, path: Path, query: Query | None = None) -> int:
    """Write the steps that a query means to a Parquet file; return how many.

    The file is wholly there or not at all. What was not measured is null.

    Raises:
        MissingExtraError: the extra `parquet` is not installed.
    """
    arrow, parquet = _pyarrow()
    columns = [(name, getattr(arrow, kind)()) for kind, names in _OF_TYPE.items() for name in names]
    texts, numbers = arrow.list_(arrow.string()), arrow.list_(arrow.float64())
    schema = arrow.schema(
        [
            *columns,
            ("choice_sites", texts),
            ("choice_blueprints", texts),
            ("choice_features", arrow.list_(numbers)),
            ("choice_probabilities", numbers),
        ],
        metadata={VERSION_KEY: str(FORMULA_VERSION)},
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    rows = 0
    try:
        with parquet.ParquetWriter(temporary, schema) as writer:
            for page in _pages(store, query):
                table = arrow.Table.from_pylist([_row(each) for each in page], schema=schema)
                writer.write_table(table)
                rows += len(page)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return rows


def _pages(store: ExperienceStore, query: Query | None) -> Iterator[list[Experience]]:
    after = 0
    while page := store.experiences(query, limit=_PAGE, after=after):
        after = page[-1][0]
        yield [each for _, each in page]


def _pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtraError(
            f"Parquet needs pyarrow, which cannot be imported ({error}): "
            "pip install 'esper-async[parquet]'"
        ) from error
    return pyarrow, pyarrow.parquet


def _row(each: Experience) -> dict[str, object]:
    decision, evidence = each.step.decision, each.evidence
    return {
        "run": decision.run_id,
        "boundary": each.step.boundary,
        "global_step": decision.global_step,
        "decided_at": decision.decided_at,
        "command": decision.command.command_id,
        "operation": operation_of(decision) or None,
        "policy": decision.policy,
        "policy_version": decision.policy_version,
        "log_probability": (
            decision.log_probability if decision.HasField("log_probability") else None
        ),
        "value": decision.value if decision.HasField("value") else None,
        **_of_draw(decision),
        **(_of_report(each.step.reports[-1]) if each.step.reports else {}),
        **_of_effect("benefit", evidence.benefit),
        **_of_effect("contribution", evidence.contribution),
        "kept": evidence.kept,
        "parameter_ratio": evidence.parameter_ratio,
        "compute_boundaries": evidence.compute_boundaries,
        "terminal_gain": evidence.terminal_gain,
        "reward_benefit": each.reward.benefit,
        "reward_rent": each.reward.rent,
        "reward_terminal": each.reward.terminal,
        "reward_budget": each.reward.budget,
        "reward": each.reward.total,
        "reward_version": each.reward_version,
    }


def _of_draw(decision: DecisionRecord) -> dict[str, object]:
    """Return what could have been planted, entry by entry, with features and probabilities."""
    draw = draw_of(decision)
    if draw is None:
        return {}
    offer = draw.offer
    return {
        "choice_sites": [offer.sites[place] for place in offer.site_of],
        "choice_blueprints": [offer.blueprints[place] for place in offer.blueprint_of],
        "choice_features": offer.features().tolist(),
        "choice_probabilities": draw.probabilities.tolist(),
        "idle_probability": draw.idle,
        "chosen": draw.chosen,
    }


def _of_report(report: FieldReport) -> dict[str, object]:
    return {
        "report": report.report_id,
        "seed": report.seed_id,
        "site": report.site,
        "blueprint": report.blueprint_id,
        "outcome": outcome_of(report),
    }


def _of_effect(name: str, effect: Measured | None) -> dict[str, object]:
    if effect is None:
        return {}
    return {f"{name}_{bound}": getattr(effect, bound) for bound in _BOUNDS}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m esper_async.simic.export")
    parser.add_argument("state_dir", type=Path, help="as .esper")
    parser.add_argument("output", type=Path, help="the Parquet file that is written")
    parser.add_argument("--run", help="only this run")
    parser.add_argument("--policy", help="only what this policy decided")
    parser.add_argument("--reported", action="store_true", help="only steps with a field report")
    asked = parser.parse_args(argv)
    query = Query(run=asked.run, policy=asked.policy, reported=asked.reported or None)
    try:
        with closing(ExperienceStore.of(asked.state_dir)) as store:
            rows = export_parquet(store, asked.output, query)
    except (FileNotFoundError, MissingExtraError) as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{asked.output}: {rows} steps, reward formula {FORMULA_VERSION}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
