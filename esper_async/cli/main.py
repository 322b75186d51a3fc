"""The command line's shape: which commands there are and what they take.

Each command imports what it needs when it is called; `--help` imports none of it.
"""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from esper_async.cli.failure import (
    EXIT_WRONG_REQUEST,
    JSON_FLAG,
    CommandError,
    reported,
    wants_json,
)
from esper_async.cli.output import Output

app = typer.Typer(
    name="esper-supervisor",
    help="Grow a PyTorch model while it trains. `up` starts everything.",
    epilog="--json, anywhere, gives one JSON document instead of text. Exit codes: 0 done, "
    "1 failed or something was lost, 2 the request was wrong, 3 an essential service failed for "
    "good, 130 interrupted. ESPER_TRACEBACK=1 shows tracebacks.",
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
runs_app = typer.Typer(help="Runs: list them, look at one, steer it.", invoke_without_command=True)
letters_app = typer.Typer(help="Messages that could not be handled.", invoke_without_command=True)
app.add_typer(runs_app, name="runs")
app.add_typer(letters_app, name="dead-letters")
library_app = typer.Typer(help="The library as one archive.", no_args_is_help=True)
app.add_typer(library_app, name="library")

StateDir = Annotated[
    Path | None, typer.Option("--state-dir", help="Where the supervisor keeps its state.")
]
Config = Annotated[Path | None, typer.Option("--config", help="A settings file (TOML).")]
RunName = Annotated[str, typer.Argument(help="A run file, or the name of one that comes along.")]
RunId = Annotated[str, typer.Argument(help="The run's id, as `runs` shows it.")]
ArchiveFile = Annotated[Path, typer.Argument(help="The archive.")]
LetterId = Annotated[str, typer.Argument(help="The letter's id, as `dead-letters` shows it.")]
OneLetter = Annotated[str | None, typer.Argument(help="The letter's id; or give --all.")]
AllLetters = Annotated[bool, typer.Option("--all", help="Every letter.")]
LettersTopic = Annotated[
    str | None, typer.Option("--topic", help="Only letters of this topic, such as field_reports.")
]


def _output() -> Output:
    return Output(as_json=wants_json())


def _client(state_dir: Path | None) -> Any:
    from esper_async.cli.client import Client
    from esper_async.cli.running import state_dir_of

    return Client.of(state_dir_of(state_dir))


def _show_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import PackageNotFoundError, version

        try:
            number = version("esper-async")
        except PackageNotFoundError:
            number = "not installed"
        _output().result({"version": number}, [f"esper-supervisor {number}"])
        raise typer.Exit


@app.callback()
def supervisor(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Grow a PyTorch model while it trains. `up` starts everything."""


@app.command()
@reported
def up(
    config: Config = None,
    run: Annotated[list[str] | None, typer.Option("--run", help="A run to submit.")] = None,
    state_dir: StateDir = None,
    host: Annotated[str | None, typer.Option(help="Where to listen.")] = None,
    port: Annotated[int | None, typer.Option(help="Where to listen; 0: any free one.")] = None,
    assignments: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, as key=value.")
    ] = None,
    exit_when_done: Annotated[
        bool, typer.Option("--exit-when-done", help="Stop once every run has ended.")
    ] = False,
    no_run: Annotated[bool, typer.Option("--no-run", help="Submit no run.")] = False,
) -> None:
    """Start the supervisor in the foreground, with a view of what it does."""
    from esper_async.supervisor.settings import default_config, load_settings, parse_assignments
    from esper_async.tolaria.run_file import load_run

    if run and no_run:
        message = f"--no-run contradicts --run {run[0]}: give one of them"
        raise CommandError(message, EXIT_WRONG_REQUEST)
    overrides = parse_assignments(assignments or [])
    flags = {"supervisor.state_dir": state_dir, "http.host": host, "http.port": port}
    overrides |= {key: value for key, value in flags.items() if value is not None}
    settings = load_settings(config or default_config(), overrides)
    runs = [load_run(name) for name in run or []]
    wanted = None if no_run or runs else load_run(settings.supervisor.default_run)

    from esper_async.cli.up import up as start

    code = start(settings, runs, wanted, exit_when_done=exit_when_done, output=_output())
    raise typer.Exit(code)


@app.command()
@reported
def down(
    state_dir: StateDir = None,
    timeout_s: Annotated[float, typer.Option("--timeout", help="Seconds to wait.")] = 60.0,
) -> None:
    """Stop the supervisor: runs write a checkpoint, everything is flushed."""
    from esper_async.cli import running

    running.down(_client(state_dir), _output(), timeout_s=timeout_s)


@app.command()
@reported
def status(
    state_dir: StateDir = None,
    watch: Annotated[bool, typer.Option("--watch", help="Repeat every second.")] = False,
) -> None:
    """Show what is running and how healthy it is."""
    from esper_async.cli import running

    running.status(_client(state_dir), _output(), watch=watch)


@app.command()
@reported
def run(
    name: RunName,
    state_dir: StateDir = None,
    follow: Annotated[bool, typer.Option("--follow", help="Stay until it has ended.")] = False,
) -> None:
    """Submit a training run to the supervisor that runs."""
    from esper_async.cli import running
    from esper_async.tolaria.run_file import load_run

    config = load_run(name).model_dump(mode="json")
    raise typer.Exit(running.submit(_client(state_dir), _output(), config, follow=follow))


@runs_app.callback()
@reported
def runs(context: typer.Context, state_dir: StateDir = None) -> None:
    """List the runs."""
    context.obj = state_dir
    if context.invoked_subcommand is None:
        from esper_async.cli import running

        running.list_runs(_client(state_dir), _output())


@runs_app.command("show")
@reported
def runs_show(context: typer.Context, run_id: RunId, state_dir: StateDir = None) -> None:
    """Show a run, its seeds and its final table."""
    from esper_async.cli import running

    running.show_run(_client(state_dir or context.obj), _output(), run_id)


def _steer(state_dir: Path | None, run_id: str, deed: str, body: Any = None) -> None:
    from esper_async.cli import running

    running.steer_run(_client(state_dir), _output(), run_id, deed, body)


@runs_app.command("pause")
@reported
def runs_pause(context: typer.Context, run_id: RunId, state_dir: StateDir = None) -> None:
    """Hold a run where it is."""
    _steer(state_dir or context.obj, run_id, "pause")


@runs_app.command("resume")
@reported
def runs_resume(context: typer.Context, run_id: RunId, state_dir: StateDir = None) -> None:
    """Let a paused run go on."""
    _steer(state_dir or context.obj, run_id, "resume")


@runs_app.command("stop")
@reported
def runs_stop(context: typer.Context, run_id: RunId, state_dir: StateDir = None) -> None:
    """End a run for good, keeping what it has."""
    _steer(state_dir or context.obj, run_id, "stop")


@runs_app.command("rollback")
@reported
def runs_rollback(
    context: typer.Context,
    run_id: RunId,
    boundary: Annotated[
        int | None, typer.Option("--to", help="The boundary; default: the last checkpoint.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Send a run back to an earlier boundary."""
    body = None if boundary is None else {"to_boundary": boundary}
    _steer(state_dir or context.obj, run_id, "rollback", body)


@runs_app.command("emergency")
@reported
def runs_emergency(
    context: typer.Context,
    run_id: RunId,
    level: Annotated[
        str, typer.Option(help="critical (freeze), severe or major (go back), minor (slow down).")
    ],
    reason: Annotated[str, typer.Option(help="What is the matter; the journal keeps it.")],
    state_dir: StateDir = None,
) -> None:
    """Freeze a run at once, send it back, or slow it down."""
    body = {"level": level.lower(), "reason": reason}
    _steer(state_dir or context.obj, run_id, "emergency", body)


@runs_app.command("risk")
@reported
def runs_risk(context: typer.Context, run_id: RunId, state_dir: StateDir = None) -> None:
    """Score a run's risk predictions against what happened; no supervisor is needed."""
    from esper_async.cli.risk import risk
    from esper_async.cli.running import state_dir_of

    risk(state_dir_of(state_dir or context.obj), run_id, _output())


@app.command()
@reported
def check(name: RunName) -> None:
    """Try a run file out: its task, model, sites and loaders; every problem at once."""
    from esper_async.cli.check import check as try_out

    raise typer.Exit(try_out(name, _output()))


@app.command()
@reported
def doctor(config: Config = None, state_dir: StateDir = None) -> None:
    """Say what on this machine will or will not work, and the remedy."""
    from esper_async.cli.doctor import doctor as examine
    from esper_async.supervisor.settings import default_config, load_settings

    overrides = {} if state_dir is None else {"supervisor.state_dir": state_dir}
    settings = load_settings(config or default_config(), overrides)
    raise typer.Exit(examine(settings, _output()))


@app.command()
@reported
def backup(
    file: Annotated[Path, typer.Argument(help="Where to write it (.tar.gz).")],
    state_dir: StateDir = None,
) -> None:
    """Copy the state directory into one file, also while a supervisor uses it."""
    from esper_async.cli.keeping import back_up
    from esper_async.cli.running import state_dir_of

    back_up(state_dir_of(state_dir), file, _output())


@app.command()
@reported
def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    state_dir: StateDir = None,
) -> None:
    """Make a new state directory from a backup; `up` on it goes on with its runs."""
    from esper_async.cli.keeping import restore as put_back
    from esper_async.cli.running import state_dir_of

    put_back(file, state_dir_of(state_dir), _output())


@app.command()
@reported
def events(
    query: Annotated[str, typer.Argument(help="Words to look for.")] = "",
    level: Annotated[str, typer.Option(help="info, warning, error or critical.")] = "info",
    source: Annotated[str, typer.Option(help="Only from this part.")] = "",
    limit: Annotated[int, typer.Option(help="At most so many.")] = 50,
    state_dir: StateDir = None,
) -> None:
    """Search the events, newest first."""
    from esper_async.cli import running

    columns = {"time": "TIME", "level": "LEVEL", "source": "SOURCE", "message": "MESSAGE"}
    running.show_table(
        _client(state_dir), _output(), "/api/events", columns,
        q=query, level=level, source=source, limit=limit,
    )  # fmt: skip


@app.command()
@reported
def blueprints(
    tier: Annotated[
        str | None, typer.Option(help="Only this tier; production, if something else is asked.")
    ] = None,
    at: Annotated[
        str | None, typer.Option(help="Only what fits spatial:CxHxW, sequence:TxD or feature:F.")
    ] = None,
    lowest_stage: Annotated[int | None, typer.Option(help="Only from this stage on.")] = None,
    highest_stage: Annotated[int | None, typer.Option(help="Only up to this stage.")] = None,
    risk: Annotated[float | None, typer.Option(help="Only up to this risk, 0 to 1.")] = None,
    parameters: Annotated[
        int | None, typer.Option(help="Only with at most so many parameters there.")
    ] = None,
    flops: Annotated[
        int | None, typer.Option(help="Only of at most so many FLOPs a sample there.")
    ] = None,
    latency_ms: Annotated[
        float | None, typer.Option(help="Only what was proved to train a batch in so long there.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Show the catalogue, or the blueprints that meet a query."""
    from esper_async.cli import running

    columns = {
        "id": "ID", "name": "NAME", "tier": "TIER", "stage": "STAGE", "risk": "RISK",
        "kinds": "SITES", "outcomes": "REPORTS",
    }  # fmt: skip
    running.show_table(
        _client(state_dir), _output(), "/api/blueprints", columns,
        tier=tier, interface=at, lowest_stage=lowest_stage, highest_stage=highest_stage,
        risk=risk, parameters=parameters, flops=flops, latency_ms=latency_ms,
    )  # fmt: skip


@app.command()
@reported
def kernels(state_dir: StateDir = None) -> None:
    """Show the library: certificates and kernels, newest first."""
    from esper_async.cli import running

    columns = {
        "id": "ID", "kind": "KIND", "blueprint": "BLUEPRINT", "interface": "INTERFACE",
        "lifecycle": "STATE", "created_at": "MADE",
    }  # fmt: skip
    running.show_table(_client(state_dir), _output(), "/api/kernels", columns)


@app.command()
@reported
def policies(state_dir: StateDir = None) -> None:
    """Show the versions of the learned policy."""
    from esper_async.cli import running

    columns = {"id": "ID", "state": "STATE", "created_at": "MADE"}
    running.show_table(_client(state_dir), _output(), "/api/policies", columns)


@app.command()
@reported
def report(
    run: RunId,
    target: Annotated[
        Path | None, typer.Option("-o", "--output", help="The file; default: ID.html here.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Write a run's story as one HTML file that needs nothing else."""
    from esper_async.cli.report import write_report
    from esper_async.cli.running import state_dir_of

    write_report(state_dir_of(state_dir), run, target, _output())


@library_app.command("export")
@reported
def library_export(file: ArchiveFile, state_dir: StateDir = None) -> None:
    """Write the library to one archive: certificates, blueprints, and what was measured."""
    from esper_async.cli.library import export_library
    from esper_async.cli.running import state_dir_of

    export_library(state_dir_of(state_dir), file, _output())


@library_app.command("import")
@reported
def library_import(file: ArchiveFile, state_dir: StateDir = None) -> None:
    """Take an archive in, once all of it is verified; what is known here stays as it is."""
    from esper_async.cli.library import import_library
    from esper_async.cli.running import state_dir_of

    import_library(state_dir_of(state_dir), file, _output())


@letters_app.callback()
@reported
def letters(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="At most so many.")] = 100,
    after: Annotated[str | None, typer.Option(help="Only those behind this id.")] = None,
    topic: LettersTopic = None,
    state_dir: StateDir = None,
) -> None:
    """List the dead letters, oldest first."""
    context.obj = state_dir
    if context.invoked_subcommand is None:
        from esper_async.cli import letters

        client = _client(state_dir)
        letters.show_letters(client, _output(), limit=limit, after=after, topic=topic)


@letters_app.command("show")
@reported
def letters_show(context: typer.Context, letter: LetterId, state_dir: StateDir = None) -> None:
    """Show a dead letter and what is in it."""
    from esper_async.cli import running

    running.show_document(
        _client(state_dir or context.obj), _output(), f"/api/dead-letters/{letter}"
    )


@letters_app.command("replay")
@reported
def letters_replay(
    context: typer.Context,
    letter: OneLetter = None,
    everything: AllLetters = False,
    topic: LettersTopic = None,
    state_dir: StateDir = None,
) -> None:
    """Deliver a dead letter again, or all, or a topic's."""
    from esper_async.cli import letters

    letters.check_which(letter, everything=everything, topic=topic)
    client = _client(state_dir or context.obj)
    if letter is None:
        letters.replay_all(client, _output(), topic)
    else:
        letters.replay(client, _output(), letter)


@letters_app.command("purge")
@reported
def letters_purge(
    context: typer.Context,
    letter: OneLetter = None,
    everything: AllLetters = False,
    topic: LettersTopic = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask before --all.")] = False,
    state_dir: StateDir = None,
) -> None:
    """Throw a dead letter away, or all, or a topic's."""
    from esper_async.cli import letters

    letters.check_which(letter, everything=everything, topic=topic)
    client = _client(state_dir or context.obj)
    if letter is None:
        if not yes:
            letters.confirm_purge(topic)
        letters.purge_all(client, _output(), topic)
    else:
        letters.purge(client, _output(), letter)


@app.command()
@reported
def study(
    files: Annotated[list[Path], typer.Argument(help="Plans (TOML), run one after the other.")],
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Runs at a time; default: one a core.")
    ] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Fail unless every comparison of the plan holds.")
    ] = False,
    first_seed: Annotated[
        int | None,
        typer.Option(min=0, help="Repeat with seeds from here on, against the first time."),
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Compare ways of training over many runs; what is interrupted goes on where it was."""
    from esper_async.cli.running import state_dir_of
    from esper_async.cli.study import studies

    root = state_dir_of(state_dir) / "studies"
    raise typer.Exit(
        studies(files, root, _output(), workers=workers, check=check, first_seed=first_seed)
    )


@app.command()
@reported
def collect(
    file: Annotated[Path, typer.Argument(help="The collection's plan (TOML).")],
    workers: Annotated[
        int | None, typer.Option(min=1, max=1024, help="Runs at a time; default: one a core.")
    ] = None,
    state_dir: StateDir = None,
) -> None:
    """Gather experience with randomised policies; what is interrupted goes on where it was."""
    from esper_async.cli.collect import collect as gather
    from esper_async.cli.running import state_dir_of

    raise typer.Exit(gather(file, state_dir_of(state_dir), _output(), workers=workers))


@app.command()
@reported
def learn(
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Default: simic/awr.json there.")
    ] = None,
    keep_back: Annotated[
        float, typer.Option(min=0.1, max=0.9, help="Share of the runs that judge what is learned.")
    ] = 0.5,
    state_dir: StateDir = None,
) -> None:
    """Let Simic learn from what was experienced, and judge what it has learned."""
    from esper_async.cli.learn import learn as learn_now
    from esper_async.cli.running import state_dir_of

    root = state_dir_of(state_dir)
    raise typer.Exit(learn_now(root, _output(), file=output, keep_back=keep_back))


@app.command()
@reported
def bench(
    names: Annotated[list[str] | None, typer.Argument(help="Which ones; default: all.")] = None,
    mutants: Annotated[
        bool, typer.Option("--mutants", help="Also run the broken variants, which must fail.")
    ] = False,
    short: Annotated[bool, typer.Option("--short", help="The form that CI runs.")] = False,
) -> None:
    """Run the benchmarks, each against its baseline in the same run."""
    import subprocess

    flags = [("--mutants", mutants), ("--short", short), (JSON_FLAG, wants_json())]
    command = [sys.executable, "-P", "-m", "esper_async.study.bench", *(names or [])]
    command += [flag for flag, given in flags if given]
    raise typer.Exit(subprocess.run(command, check=False).returncode)


@app.command()
@reported
def drill(
    names: Annotated[list[str] | None, typer.Argument(help="Which ones; default: all.")] = None,
) -> None:
    """Inject faults into a supervisor of its own, and show what was lost (nothing)."""
    import subprocess

    command = [sys.executable, "-P", "-m", "esper_async.drills", *(names or [])]
    command += [JSON_FLAG] if wants_json() else []
    raise typer.Exit(subprocess.run(command, check=False).returncode)


def main() -> None:
    """Run the command line; does not return."""
    arguments = [argument for argument in sys.argv[1:] if argument != JSON_FLAG]
    app(args=arguments, prog_name="esper-supervisor")
