"""The command line's shape: which commands there are and what they take.

Each command imports what it needs when it is called; `--help` imports none of it.
"""

import sys

from esper_async.cli.app import app
from esper_async.cli.commands import (
    examining,
    keeping,
    learning,
    letters,
    looking,
    policies,
    proving,
    runs,
    serving,
)
from esper_async.cli.failure import JSON_FLAG
from esper_async.runtime.process_end import QuickEnd

for topic in (serving, runs, examining, keeping, looking, letters, learning, policies, proving):
    app.add_typer(topic.commands)


def main() -> None:
    """Run the command line; does not return."""
    end = QuickEnd()
    arguments = [argument for argument in sys.argv[1:] if argument != JSON_FLAG]
    try:
        app(args=arguments, prog_name="esper-supervisor")
    except SystemExit as leaving:
        end.code = leaving.code if isinstance(leaving.code, int) else None
        raise
