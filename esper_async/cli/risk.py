"""`runs risk`: how good a run's risk predictions were, from its journal alone."""

from pathlib import Path

from esper_async.cli.failure import EXIT_WRONG_REQUEST, CommandError
from esper_async.cli.output import Output
from esper_async.runtime.journal import JournalDamagedError, read_journal
from esper_async.tamiyo.risk.scoring import score_risk, score_text


def risk(state_dir: Path, run_id: str, output: Output) -> None:
    """Print the score of a run.

    Raises:
        CommandError: there is no such run, or its journal cannot be read.
    """
    journal = state_dir / "runs" / run_id / "journal.jsonl"
    if "/" in run_id or not journal.is_file():
        known = sorted(path.name for path in (state_dir / "runs").glob("*") if path.is_dir())
        listed = ", ".join(known[-10:]) or "none"
        message = f"no run {run_id!r} in {state_dir}; it has: {listed}"
        raise CommandError(message, EXIT_WRONG_REQUEST)
    try:
        found = score_risk(read_journal(journal))
    except JournalDamagedError as error:
        raise CommandError(str(error)) from error
    output.result(found.to_json(), score_text(found))
