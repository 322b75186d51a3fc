"""`dead-letters ...`: messages that could not be handled."""

from typing import Annotated

import typer

from esper_async.cli.app import StateDir, client_of, output
from esper_async.cli.failure import reported

commands = typer.Typer()
letters_app = typer.Typer(help="Messages that could not be handled.", invoke_without_command=True)
commands.add_typer(letters_app, name="dead-letters")

LetterId = Annotated[str, typer.Argument(help="The letter's id, as `dead-letters` shows it.")]
OneLetter = Annotated[str | None, typer.Argument(help="The letter's id; or give --all.")]
AllLetters = Annotated[bool, typer.Option("--all", help="Every letter.")]
LettersTopic = Annotated[
    str | None, typer.Option("--topic", help="Only letters of this topic, such as field_reports.")
]


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

        client = client_of(state_dir)
        letters.show_letters(client, output(), limit=limit, after=after, topic=topic)


@letters_app.command("show")
@reported
def letters_show(context: typer.Context, letter: LetterId, state_dir: StateDir = None) -> None:
    """Show a dead letter and what is in it."""
    from esper_async.cli import running

    running.show_document(
        client_of(state_dir or context.obj), output(), f"/api/dead-letters/{letter}"
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
    client = client_of(state_dir or context.obj)
    if letter is None:
        letters.replay_all(client, output(), topic)
    else:
        letters.replay(client, output(), letter)


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
    client = client_of(state_dir or context.obj)
    if letter is None:
        if not yes:
            letters.confirm_purge(topic)
        letters.purge_all(client, output(), topic)
    else:
        letters.purge(client, output(), letter)
