"""Dead letters from the command line: look, deliver again, throw away; one, a topic's, or all."""

import sys
import urllib.parse

import typer

from esper_async.cli.client import Client
from esper_async.cli.failure import EXIT_WRONG_REQUEST, CommandError
from esper_async.cli.output import Output, number, table
from esper_async.cli.running import ask

_PATH = "/api/dead-letters"
_PAGE = 1_000  # what one request brings at most
_BULK_TIMEOUT_S = 600.0
_REASON_CHARACTERS = 100


def show_letters(
    client: Client, output: Output, *, limit: int, after: str | None, topic: str | None
) -> None:
    """Show up to `limit` letters, oldest first, and say how to see those behind them."""
    found: list[dict[str, object]] = []
    while (wanted := limit + 1 - len(found)) > 0:  # one more tells whether there are more
        size = min(wanted, _PAGE)
        page = client.get(_PATH, limit=size, after=after, topic=topic)
        found += page
        if len(page) < size:
            break
        after = str(found[-1]["id"])
    letters, more = found[:limit], found[limit:]
    rows = [
        (each["id"], each["topic"], each["group"], _short(str(each["reason"]))) for each in letters
    ]
    lines = table(("ID", "TOPIC", "GROUP", "REASON"), rows) or ["nothing there"]
    if more:
        lines.append(f"there are more: dead-letters --after {letters[-1]['id']}")
    output.result(letters, lines)


def check_which(letter: str | None, *, everything: bool, topic: str | None) -> None:
    """Raise CommandError unless one letter is named, or all, or all of a topic."""
    if letter is not None and everything:
        problem = f"{letter} and --all: give one of them, not both"
    elif topic is not None and not everything:
        problem = f"--topic {topic} narrows --all: give both"
    elif letter is None and not everything:
        problem = "which letter? Give its id, as `dead-letters` shows it, or --all"
    else:
        return
    raise CommandError(problem, EXIT_WRONG_REQUEST)


def confirm_purge(topic: str | None) -> None:
    """Ask on a terminal whether so much is meant. Raises CommandError unless it is."""
    if not sys.stdin.isatty():
        raise CommandError(
            "purge --all throws letters away for good, and there is no terminal to ask on: "
            "give --yes if that is meant",
            EXIT_WRONG_REQUEST,
        )
    whose = "" if topic is None else f" of {topic}"
    try:
        meant = typer.confirm(f"Throw every dead letter{whose} away, for good?", err=True)
    except typer.Abort:
        raise KeyboardInterrupt from None
    if not meant:
        raise CommandError("nothing was thrown away")


def replay(client: Client, output: Output, letter: str) -> None:
    """Deliver one letter again."""
    path = f"{_PATH}/{letter}/replay"
    ask(client, output, lambda: client.post(path), f"{letter} is delivered again")


def replay_all(client: Client, output: Output, topic: str | None) -> None:
    """Deliver every letter again, or every one of a topic."""
    path = f"{_PATH}/replay?{_which(topic)}"
    answer = client.post(path, timeout_s=_BULK_TIMEOUT_S)
    output.result(answer, [f"{_letters(answer['replayed'])} delivered again"])


def purge(client: Client, output: Output, letter: str) -> None:
    """Throw one letter away."""
    ask(client, output, lambda: client.delete(f"{_PATH}/{letter}"), f"{letter} is gone")


def purge_all(client: Client, output: Output, topic: str | None) -> None:
    """Throw every letter away, or every one of a topic."""
    answer = client.delete(f"{_PATH}?{_which(topic)}", timeout_s=_BULK_TIMEOUT_S)
    output.result(answer, [f"{_letters(answer['purged'])} gone"])


def _which(topic: str | None) -> str:
    return "all=true" if topic is None else urllib.parse.urlencode({"topic": topic})


def _letters(count: int) -> str:
    return "1 dead letter is" if count == 1 else f"{number(count)} dead letters are"


def _short(reason: str) -> str:
    cut = len(reason) > _REASON_CHARACTERS
    return f"{reason[: _REASON_CHARACTERS - 1]}…" if cut else reason
