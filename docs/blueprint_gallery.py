"""Write `docs/blueprint-gallery.md` from the catalogue and from what was measured.

    python docs/blueprint_gallery.py --measure    time all fifty here, into gallery/costs.json
    python docs/blueprint_gallery.py              write the page

Times are those of the machine on which `--measure` ran. Contributions are the benchmark
`usefulness`'s, once its figures lie in `evidence/usefulness.json`.
"""

import argparse
import json
import platform
import re
import time
from collections.abc import Iterable
from pathlib import Path
from statistics import median
from typing import Any

from esper_async.karn.catalogue import Catalogue
from esper_async.karn.record import TIERS, BlueprintRecord, Cost, Interface

HERE = Path(__file__).parent
PAGE = HERE / "blueprint-gallery.md"
COSTS = HERE / "gallery" / "costs.json"
USEFULNESS = HERE / "evidence" / "usefulness.json"
BATCH, PASSES = 16, 30
TASKS = ("mnist1d", "mnist5k", "shakespeare")
_ROW = re.compile(r"(?P<task>\w+): (?P<id>BP\d{3}) ")
_PROLOGUE = """# The fifty blueprints

Written by [a script](blueprint_gallery.py) from the catalogue and from measurements; a test holds
that it is what they say now. [Blueprints](blueprints.md) has how to add one.

Parameters and FLOPs (of one sample's forward pass) are those of the default settings at three
sites: `spatial` {spatial}, `sequence` {sequence} and `feature` {feature}. A dash: it does not claim
such a site. Milliseconds are processor time of a forward with its backward of a batch of {batch}
there: {machine}.
"""
_CONTRIBUTION = """
The contribution is what the kernel took off the validation loss of a small host when its shadow
training was over, in nats: the mean over five seeds at the best site of each task, as
`bench usefulness` measures it. {what}
"""
_NOT_YET = "It has not been measured on this code."


def page() -> str:
    """Return the whole page."""
    records, costs = Catalogue().records, json.loads(COSTS.read_text())
    useful = json.loads(USEFULNESS.read_text()) if USEFULNESS.exists() else None
    sites = {at.kind: "x".join(map(str, at.shape)) for at, _ in records[0].costs}
    parts = [_PROLOGUE.format(**sites, batch=costs["batch"], machine=costs["machine"])]
    parts.append(_CONTRIBUTION.format(what=_NOT_YET if useful is None else _never(useful)))
    for tier in TIERS:
        of_tier = [record for record in records if record.tier == tier]
        parts.append(f"\n## {tier.capitalize()}\n\n{_listed(of_tier)}\n")
        parts.append(f"\n{_table(of_tier, costs['training_ms'], useful)}\n")
    return "".join(parts)


def measure() -> dict[str, Any]:
    """Train every blueprint for a few passes at the reference sites; return what a pass takes.

    In processor time, so that others at work on the machine hardly matter.
    """
    import torch

    from esper_async.kasmina.catalogue import REFERENCE_SITES

    torch.set_num_threads(1)
    times = {
        record.id: {
            site.kind: _training_ms(record, site)
            for site in REFERENCE_SITES
            if record.fits(Interface(site.kind, site.shape))
        }
        for record in Catalogue().records
    }
    machine = f"one thread, {platform.machine()}, torch {torch.__version__}"
    return {"machine": machine, "batch": BATCH, "training_ms": times}


def _training_ms(record: BlueprintRecord, site: Any) -> float:
    import torch

    from esper_async.kasmina.kernels import build_kernel

    named = {parameter.name for parameter in record.parameters}
    settings = {"after": 10_000} if "after" in named else {}  # before it misbehaves
    kernel = build_kernel(record.id, site, settings, seed=0, drill=True)
    batch = torch.randn(BATCH, *site.shape).requires_grad_()
    passes = []
    for _ in range(PASSES):
        began = time.process_time()
        kernel(batch).sum().backward()
        passes.append((time.process_time() - began) * 1e3)
    return round(median(passes), 4)


def _listed(records: Iterable[BlueprintRecord]) -> str:
    return "\n".join(
        f"- **{record.id} {record.name}** (stage {record.stage}, risk {record.risk:g}): "
        f"{record.description} {_settings(record)}"
        for record in records
    )


def _settings(record: BlueprintRecord) -> str:
    if not record.parameters:
        return "Nothing can be set."
    told = (
        f"`{each.name}` {each.low} to {each.high} ({each.preset})" for each in record.parameters
    )
    return f"Settings: {', '.join(told)}."


def _table(
    records: Iterable[BlueprintRecord],
    times: dict[str, dict[str, float]],
    useful: dict[str, Any] | None,
) -> str:
    head = ["blueprint", "spatial", "sequence", "feature"]
    gains = {} if useful is None else _gains(useful)
    tasks = TASKS if gains else ()
    lines = [[*head, *tasks], ["---"] * (len(head) + len(tasks))]
    for record in records:
        cells = {at.kind: (cost, times[record.id][at.kind]) for at, cost in record.costs}
        lines.append(
            [
                record.id,
                *(_cost(*cells[kind]) if kind in cells else "-" for kind in head[1:]),
                *(gains.get((task, record.id), "-") for task in tasks),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cost(cost: Cost, training_ms: float) -> str:
    return f"{cost.parameters} parameters, {cost.forward_flops} FLOPs, {training_ms:.2g} ms"


def _rows(useful: dict[str, Any]) -> list[dict[str, Any]]:
    (benchmark,) = (each for each in useful["benchmarks"] if each["name"] == "usefulness")
    rows: list[dict[str, Any]] = benchmark["rows"]
    return rows


def _gains(useful: dict[str, Any]) -> dict[tuple[str, str], str]:
    found = {}
    for row in _rows(useful):
        match = _ROW.match(row["figure"])
        if match is not None:
            low, high = row["interval"]
            found[match["task"], match["id"]] = f"{row['value']:+.3f} [{low:+.3f}, {high:+.3f}]"
    return found


def _never(useful: dict[str, Any]) -> str:
    row = next(row for row in _rows(useful) if row["figure"] == "families that never helped")
    return (
        "A dash: it fits no site of that task. Families (files of `kasmina/kernels/`) that never "
        f"helped, at no site of any of the three tasks: {row['note']}."
    )


def main() -> None:
    """Measure, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--measure", action="store_true", help="time all fifty here")
    if parser.parse_args().measure:
        COSTS.parent.mkdir(exist_ok=True)
        COSTS.write_text(json.dumps(measure(), indent=1) + "\n")
    else:
        PAGE.write_text(page())


if __name__ == "__main__":
    main()
