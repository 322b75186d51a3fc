"""Commands that speak to a supervisor that runs: status, runs, and looks into the parts."""

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from esper_async.cli.client import Client
from esper_async.cli.failure import CommandError
from esper_async.cli.output import Output, table
from esper_async.cli.run_text import (
    comparison_table,
    doing,
    ending,
    progress_line,
    runs_table,
    seeds_table,
)

if TYPE_CHECKING:
    from esper_async.cli.live_view import Snapshot

ENDED = frozenset({"completed", "failed", "stopped"})
WATCH_EVERY_S = 1.0
FOLLOW_EVERY_S = 1.0
_GOING_ON = frozenset({"queued", "running", "paused"})


def down(client: Client, output: Output, *, timeout_s: float) -> None:
    """Ask the supervisor to drain and wait until it has gone; raises CommandError if it stays."""
    import signal

    if client.pid is None:
        raise CommandError("the supervisor's process is not known")
    os.kill(client.pid, signal.SIGTERM)
    deadline = time.monotonic() + timeout_s
    while _alive(client.pid):
        if time.monotonic() > deadline:
            raise CommandError(
                f"process {client.pid} has not stopped within {timeout_s:g} s; "
                f"`esper-supervisor status` says what it is at"
            )
        time.sleep(0.05)
    output.result({"stopped": client.pid}, [f"stopped (process {client.pid})"])


def status(client: Client, output: Output, *, watch: bool) -> None:
    """Show what runs and how healthy it is, once or until interrupted."""
    if watch and output.color:
        _watch(client)
        return
    while True:
        ready = client.readiness()
        runs = [] if _is_down(ready, "nissa") else client.get("/api/runs")
        alerts = [] if _is_down(ready, "nissa") else client.get("/api/status")["alerts"]
        document = {**ready, "url": client.url, "pid": client.pid, "runs": runs, "alerts": alerts}
        output.result(document, _status_lines(document))
        if not watch:
            return
        time.sleep(WATCH_EVERY_S)


def _watch(client: Client) -> None:
    """Show the live view of `up` until interrupted, also while the supervisor is away."""
    from rich.live import Live
    from rich.text import Text

    from esper_async.cli.live_view import render

    with Live(auto_refresh=False) as live:
        while True:
            try:
                live.update(render(_seen(client)), refresh=True)
            except CommandError as error:
                live.update(Text(f"✕ {error}; this view waits for it", "bold red"), refresh=True)
            time.sleep(WATCH_EVERY_S)


def _seen(client: Client) -> "Snapshot":
    from esper_async.cli.live_view import Snapshot

    ready = client.readiness()
    down = _is_down(ready, "nissa")
    runs = [] if down else client.get("/api/runs")
    return Snapshot(
        url=client.url,
        status=ready["status"],
        services=ready["services"],
        runs=[run for run in runs if run["state"] in _GOING_ON] or runs[:1],
        alerts=[] if down else client.get("/api/status")["alerts"],
        hint="Ctrl-C ends this view; everything goes on",
    )


def submit(client: Client, output: Output, config: Mapping[str, Any], *, follow: bool) -> int:
    """Queue a run and, if asked, follow it; returns the exit code."""
    run = client.post("/api/runs", config)
    if not follow:
        output.result(run, [f"{run['id']}: {run['state']}; follow it at {client.url}/"])
        return 0
    return _follow(client, output, run["id"])


def list_runs(client: Client, output: Output) -> None:
    """Show every run."""
    runs = client.get("/api/runs")
    output.result(runs, runs_table(runs))


def show_run(client: Client, output: Output, run_id: str) -> None:
    """Show one run with its seeds."""
    run = client.get(f"/api/runs/{run_id}")
    end = client.get(f"/api/runs/{run_id}/picture").get("end") or {}
    rows = end.get("comparison") or []
    lines = [progress_line(run)]
    lines += [f"  {run['error']}"] if run["error"] else []
    output.result({**run, "comparison": rows}, [
        *lines, *seeds_table(run["seeds"]), *comparison_table(rows)
    ])  # fmt: skip


def steer_run(
    client: Client, output: Output, run_id: str, deed: str, body: Mapping[str, Any] | None = None
) -> None:
    """Ask for a pause, a resume, a stop, a rollback or the answer to an emergency."""
    run = client.post(f"/api/runs/{run_id}/{deed}", body)
    lines = [f"{run_id}: {deed} asked for; it is {run['state']}"]
    if deed == "emergency" and run["state"] == "paused":
        lines = [f"{run_id} is frozen; `esper-supervisor runs resume {run_id}` lets it go on"]
    elif deed in ("rollback", "emergency"):
        lines.append("if it cannot be done, `esper-supervisor events refused` says why")
    output.result(run, lines)


def show_table(
    client: Client, output: Output, path: str, columns: Mapping[str, str], **query: object
) -> None:
    """Show a list of the API as a table: `columns` gives each field its heading."""
    document = client.get(path, **query)
    items = document["items"] if isinstance(document, dict) else document
    rows = [[_cell(item, field) for field in columns] for item in items]
    output.result(document, table(list(columns.values()), rows) or ["nothing there"])


def show_document(client: Client, output: Output, path: str) -> None:
    """Show one document of the API, field by field."""
    document = client.get(path)
    output.result(document, [f"{name}: {value}" for name, value in document.items()])


def ask(client: Client, output: Output, call: Callable[[], Any], done: str) -> None:
    """Carry out a change and say so."""
    output.result(call() or {"done": done}, [done])


def state_dir_of(state_dir: Path | None, config: Path | None = None) -> Path:
    """Return the state directory meant: the one named, else the settings' own."""
    if state_dir is not None:
        return state_dir
    from esper_async.supervisor.settings import default_config, load_settings

    return load_settings(config or default_config()).supervisor.state_dir


def _follow(client: Client, output: Output, run_id: str) -> int:
    said: tuple[Any, ...] | None = None
    while True:
        run = client.get(f"/api/runs/{run_id}")
        now = (run["state"], run["epoch"], doing(run))
        if now != said:
            said = now
            output.line(progress_line(run))
        if run["state"] in ENDED:
            break
        time.sleep(FOLLOW_EVERY_S)
    end = client.get(f"/api/runs/{run_id}/picture").get("end") or {}
    rows = end.get("comparison") or []
    output.result(
        {**run, "comparison": rows},
        ["", ending(run_id, run["state"], run["error"]), *comparison_table(rows)],
    )
    return 1 if run["state"] == "failed" else 0


def _status_lines(document: Mapping[str, Any]) -> list[str]:
    rows = [
        (
            name,
            _state_of(facts),
            facts["restarts"],
            ", ".join(f"{b} {s}" for b, s in facts["breakers"].items() if s != "closed") or None,
            facts.get("error"),
        )
        for name, facts in document["services"].items()
    ]
    lines = [f"{document['status']}  {document['url']}/  (process {document['pid']})", ""]
    lines += table(("SERVICE", "STATE", "RESTARTS", "OPEN BREAKERS", "LAST ERROR"), rows)
    lines += ["", *runs_table(document["runs"])]
    lines += [f"alert: {alert['name']}: {alert['summary']}" for alert in document["alerts"]]
    return lines


def _state_of(facts: Mapping[str, Any]) -> str:
    """Return a service's state in words: when it is tried again, whether it ignores its end."""
    words = [str(facts["state"])]
    if facts.get("next_attempt_at") is not None:
        words.append(f"again in {max(0.0, facts['next_attempt_at'] - time.time()):.0f} s")
    if facts.get("overdue"):
        words.append("does not end")
    return ", ".join(words)


def _is_down(ready: Mapping[str, Any], name: str) -> bool:
    return bool(ready["services"].get(name, {}).get("state") != "ready")


def _cell(item: Mapping[str, Any], field: str) -> object:
    value = item.get(field)
    if isinstance(value, list):
        return ", ".join(str(each) for each in value)
    if isinstance(value, dict):
        return ", ".join(f"{count} {name}" for name, count in value.items() if count) or None
    if field in ("time", "created_at", "at") and isinstance(value, int | float):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    return value


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return not Path("/proc/self").exists()
