"""How evaluations travel to other ranks: names as JSON values, all numbers in one row."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from esper_async.kasmina.evaluation import Evaluation
from esper_async.kasmina.probe import SiteStatistics
from esper_async.kasmina.ranks import Form

Evaluations = dict[str, Evaluation]


def _pack(results: Evaluations) -> tuple[Any, Tensor]:
    content, rows = [], [torch.empty(0, dtype=torch.float64)]
    for name, result in results.items():
        parts = [result.losses, result.weights, *result.values.values()]
        content.append(
            {
                "name": name,
                "sizes": [part.numel() for part in parts],
                "values": list(result.values),
                "metrics": dict(result.metrics),
                "paired_by": result.paired_by,
                "unit": result.unit,
                "site": None if result.site is None else asdict(result.site),
                "pass_ms": result.pass_ms,
            }
        )
        rows += parts
    return content, torch.cat(rows)


def _unpack(content: Any, numbers: Tensor) -> Evaluations:
    sizes = [size for entry in content for size in entry["sizes"]]
    rows: Iterator[Tensor] = iter(torch.split(numbers, sizes) if sizes else ())
    results = {}
    for entry in content:
        losses, weights = next(rows), next(rows)
        values = {name: next(rows) for name in entry["values"]}
        paired_by, unit, site = entry["paired_by"], entry["unit"], _site_of(entry["site"])
        results[entry["name"]] = Evaluation(
            losses, weights, entry["metrics"], values, paired_by, unit, site, entry["pass_ms"]
        )
    return results


def _site_of(told: dict[str, Any] | None) -> SiteStatistics | None:
    if told is None:
        return None
    shapes = tuple(tuple(shape) for shape in told["shapes"])
    return SiteStatistics(**{**told, "shapes": shapes})


EVALUATIONS: Form[Evaluations] = Form(_pack, _unpack)
"""Losses, weights and metrics of every variant: float64 throughout, so that no bit is lost."""
