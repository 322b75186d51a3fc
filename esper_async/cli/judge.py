"""`policies judge`: let a graph policy's file go through the gate."""

import shlex
from pathlib import Path

from esper_async.cli.failure import EXIT_FAILED, EXIT_WRONG_REQUEST, CommandError
from esper_async.cli.learn import tell, verdict_lines
from esper_async.cli.output import Output
from esper_async.simic.registry import NotValidatedError
from esper_async.study.gate.graph_judging import judge_graph
from esper_async.study.gate.judging import ActivePolicyError, NothingNewError
from esper_async.study.gate.plan import load_gate
from esper_async.tamiyo.errors import PolicyFileError


def judge_file(
    state_dir: Path, file: Path, output: Output, *, gate: Path | None, workers: int | None
) -> int:
    """Judge a file; 1 if what is in it does not pass.

    Raises:
        CommandError: it holds no policy, or there is nothing to compare it with.
        ConfigurationError: the gate's plan is wrong; nothing was done.
    """
    plan = load_gate(gate)
    words = ["bin/esper-supervisor", "policies", "judge", str(file)]
    words += [] if gate is None else ["--gate", str(gate)]
    try:
        verdict = judge_graph(
            state_dir, file, plan, command=shlex.join(words), workers=workers, tell=tell
        )
    except FileNotFoundError:
        raise CommandError(f"there is no file {file}", EXIT_WRONG_REQUEST) from None
    except PolicyFileError as error:
        raise CommandError(str(error), EXIT_WRONG_REQUEST) from error
    except (ActivePolicyError, NothingNewError, NotValidatedError) as error:
        raise CommandError(str(error)) from error
    output.result(
        {"file": str(file), "id": verdict.entry.id, **verdict.record},
        verdict_lines(verdict, "gnn"),
    )
    return 0 if verdict.published else EXIT_FAILED
