"""`backup` and `restore`: a state directory into a file, and out of it."""

import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from esper_async.cli.output import Output


def back_up(state_dir: Path, file: Path, output: Output) -> None:
    """Write a backup and say what is in it. Raises BackupError."""
    from esper_async.supervisor.backup import back_up as copy

    try:
        number = version("esper-async")
    except PackageNotFoundError:
        number = ""
    made = copy(state_dir, file, version=number)
    output.result(
        {
            "file": str(made.path),
            "files": made.files,
            "runs": made.runs,
            "size_bytes": made.size_bytes,
        },
        [
            f"{made.path}: {made.files} files, {made.runs} runs, {made.size_bytes / 1e6:.1f} MB; "
            "it holds the signing key and the token, so keep it as you keep those"
        ],
    )


def restore(file: Path, state_dir: Path, output: Output) -> None:
    """Make a state directory from a backup and say how to go on. Raises BackupError."""
    from esper_async.supervisor.restore import restore as put_back

    made = put_back(file, state_dir)
    taken = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(made.created_at))
    output.result(
        {
            "state_dir": str(made.state_dir),
            "files": made.files,
            "created_at": made.created_at,
        },
        [
            f"{made.state_dir}: {made.files} files, as they were at {taken}",
            f"go on with: esper-supervisor up --no-run --state-dir {made.state_dir}",
        ],
    )
