"""A picture of a run, for notebooks."""

import math
from collections.abc import Mapping, Sequence
from typing import Any


def plot_history(
    history: Sequence[Mapping[str, Any]], transitions: Sequence[Mapping[str, Any]]
) -> Any:
    """Return a matplotlib figure: losses over boundaries, and where seeds were kept or culled.

    Raises:
        ImportError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError(
            "result.plot() needs matplotlib: pip install 'esper-async[plot]', or matplotlib itself"
        ) from error
    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    boundaries = [entry["boundary"] for entry in history]
    for name in ("training_loss", "validation_loss"):
        axes.plot(
            boundaries,
            [float(entry.get(name, math.nan)) for entry in history],
            label=name.replace("_", " "),
        )
    colours = {"BLENDING": "tab:orange", "FOSSILIZED": "tab:green"}
    for change in transitions:
        if change["to_stage"] in colours:
            axes.axvline(
                change["boundary"], color=colours[change["to_stage"]], linestyle=":", linewidth=1
            )
            axes.annotate(
                f"{change['blueprint']} {change['to_stage'].lower()}",
                (change["boundary"], 0.98),
                xycoords=("data", "axes fraction"),
                rotation=90,
                va="top",
                fontsize=7,
            )
    axes.set_xlabel("boundary")
    axes.set_ylabel("loss")
    axes.legend()
    return figure
