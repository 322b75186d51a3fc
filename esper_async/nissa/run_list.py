"""Every run, whether the run manager, the journals or both know it."""

from typing import Any

from esper_async.nissa.ports import RunManager
from esper_async.nissa.run_summary import summary_of
from esper_async.tamiyo.errors import UnknownRunError
from esper_async.tamiyo.hub import Hub
from esper_async.tolaria.runs import Run, RunNotFoundError

Json = dict[str, Any]


def find_run(runs: RunManager, run_id: str) -> Run | None:
    """The manager's run, or None when it does not know it."""
    try:
        return runs.get(run_id)
    except RunNotFoundError:
        return None


def list_runs(hub: Hub, runs: RunManager) -> list[Json]:
    """A summary of every run, newest first."""
    managed = {run.id: run for run in runs.runs()}
    told = {summary["id"]: summary for summary in hub.runs()}
    merged = [
        summary_of(managed.get(i), told.get(i), _progress(runs, managed.get(i)))
        for i in {*managed, *told}
    ]
    return sorted(merged, key=lambda run: (run["created_at"] or 0.0, run["id"]), reverse=True)


async def show_run(hub: Hub, runs: RunManager, run_id: str) -> Json:
    """One run; raises UnknownRunError."""
    run = find_run(runs, run_id)
    told = (await hub.picture(run_id)).summary() if hub.knows(run_id) else None
    if run is None and told is None:
        raise UnknownRunError(run_id)
    return summary_of(run, told, _progress(runs, run))


def _progress(runs: RunManager, run: Run | None) -> Json:
    return {} if run is None or run.state != "running" else runs.progress(run.id)
