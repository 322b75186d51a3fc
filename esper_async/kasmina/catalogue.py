"""Karn's catalogue, written from the kernels: `python -m esper_async.kasmina.catalogue`.

With `--check` nothing is written; the exit code is 1 when what stands there is stale. Karn itself
must not import torch, so it reads the generated module.
"""

import argparse
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import torch

from esper_async.karn.record import (
    Approval,
    BlueprintRecord,
    Cost,
    Interface,
    ParameterRecord,
)
from esper_async.kasmina.code_hash import code_hash
from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import QUARANTINE, REGISTRY, build_kernel
from esper_async.kasmina.kernels.blueprint import Blueprint
from esper_async.kasmina.proof_cost import count_flops

REFERENCE_SITES = (
    SiteInterface("spatial", (8, 1, 40)),
    SiteInterface("sequence", (32, 64)),
    SiteInterface("feature", (64,)),
)
_APPROVALS = {
    "production": Approval("Esper's design", "2026-11-23", "any run, once certified"),
    "experimental": Approval("Esper's design", "2026-11-23", "runs that allow the tier by name"),
    "adversarial": Approval("Esper's design", "2026-11-23", "drills alone; never a live run"),
}
_HEADER = '''"""The catalogue's records. Generated from the kernels; do not edit.

Write it anew with `python -m esper_async.kasmina.catalogue`.
"""

# ruff: noqa: E501

'''
_TARGET = Path(__file__).parents[1] / "karn" / "generated.py"


def catalogue_records() -> tuple[BlueprintRecord, ...]:
    """Return all fifty records, in order of id; planted kernels are no blueprints."""
    built = sorted({**REGISTRY, **QUARANTINE}.items())
    return tuple(_record(kernel.blueprint) for key, kernel in built if key.startswith("BP"))


def catalogue_source() -> str:
    """Return the text of the generated module."""
    records = ", ".join(repr(record) for record in catalogue_records())
    imports = "Approval, BlueprintRecord, Cost, Interface, ParameterRecord"
    source = (
        f"{_HEADER}from esper_async.karn.record import {imports}\n\n"
        f"RECORDS: tuple[BlueprintRecord, ...] = ({records},)\n"
    )
    command = [sys.executable, "-m", "ruff", "format", "--quiet", "--line-length", "100", "-"]
    return subprocess.run(command, input=source, capture_output=True, text=True, check=True).stdout


def is_fresh() -> bool:
    """Whether the generated module holds what the kernels say now."""
    try:
        written = import_module("esper_async.karn.generated").RECORDS
    except (ImportError, AttributeError, TypeError):
        return False
    return bool(written == catalogue_records())


def _record(blueprint: Blueprint) -> BlueprintRecord:
    return BlueprintRecord(
        id=blueprint.id,
        name=blueprint.name,
        tier=blueprint.tier,  # type: ignore[arg-type]  # planted ones are left out by their ids
        stage=blueprint.stage,
        risk=blueprint.risk,
        description=blueprint.description,
        kinds=blueprint.kinds,
        approval=_APPROVALS[blueprint.tier],
        output=blueprint.output,
        parameters=tuple(
            ParameterRecord(s.name, s.low, s.high, str(s.default), s.meaning, s.odd)
            for s in blueprint.settings
        ),
        least_channels=blueprint.least_channels,
        least_positions=blueprint.least_positions,
        most_positions=blueprint.most_positions,
        code_hash=code_hash(blueprint.id),
        costs=_costs(blueprint),
    )


def _costs(blueprint: Blueprint) -> tuple[tuple[Interface, Cost], ...]:
    """Measure a blueprint with its defaults at every reference interface that it fits."""
    costs = []
    for site in REFERENCE_SITES:
        if blueprint.misfit(site) is None:
            kernel = build_kernel(blueprint.id, site, seed=0, drill=True)
            flops, _ = count_flops(kernel, torch.zeros(1, *site.shape))
            count = sum(parameter.numel() for parameter in kernel.parameters())
            costs.append((Interface(site.kind, site.shape), Cost(count, flops)))
    return tuple(costs)


def main(arguments: list[str] | None = None) -> int:
    """Write the generated module, or check it; return the exit code."""
    parser = argparse.ArgumentParser(prog="catalogue", description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; 1 when it is stale")
    asked = parser.parse_args(arguments)
    if not asked.check:
        _TARGET.write_text(catalogue_source(), encoding="utf-8")
        return 0
    if is_fresh():
        return 0
    sys.stderr.write(f"{_TARGET} is stale; run `python -m esper_async.kasmina.catalogue`\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
