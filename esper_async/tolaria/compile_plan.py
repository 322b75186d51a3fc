"""What `check` says of compilation: what will be compiled, and which sites lie inside."""

from collections.abc import Sequence
from typing import Any

from esper_async.kasmina.call import default_forward
from esper_async.kasmina.compiling.choice import sites_inside
from esper_async.kasmina.sites import Site, called_paths
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.task import Task


def compile_plan(
    task: Task, options: RunOptions, sites: Sequence[Site], batch: Any
) -> dict[str, Any] | None:
    """Return the regions of a run, with the names of the sites inside each; None if there is none.

    A seed inside a region costs a pause for the compiler when it is blended; one at a border, or
    outside, costs none.

    Raises:
        CompileError: the model cannot be compiled as it is asked for.
    """
    compiling = options.compiling(deterministic=True, taken_over=task.compiled)
    if not compiling.is_on:
        return None

    def called() -> set[str]:
        return called_paths(task.model, task.forward or default_forward, batch)

    names = {site.path: site.name for site in sites}
    paths = compiling.plan(task.model, names, called)
    backend = "as it was beforehand" if task.compiled else options.compile_backend
    rows = [
        {"path": path, "sites_inside": [names[p] for p in sites_inside(task.model, path, names)]}
        for path in paths
    ]
    return {"backend": backend, "regions": rows}
