"""`status --watch` on a terminal: one view, whatever becomes of the supervisor."""

import io
from typing import Any

import pytest

from esper_async.cli import running
from esper_async.cli.failure import CommandError
from esper_async.cli.output import Output

AWAY = CommandError("the supervisor at http://127.0.0.1:1 does not answer")
READY = {"status": "ready", "services": {"oona": {"state": "ready"}}}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


class Told:
    """In a client's place: what readiness says, one after the other, until somebody interrupts."""

    url = "http://127.0.0.1:1"

    def __init__(self, *answers: dict[str, Any] | CommandError) -> None:
        self._answers = [*answers]

    def readiness(self) -> dict[str, Any]:
        if not self._answers:
            raise KeyboardInterrupt
        answer = self._answers.pop(0)
        if isinstance(answer, CommandError):
            raise answer
        return answer

    def get(self, path: str) -> Any:
        return [] if path == "/api/runs" else {"alerts": []}


@pytest.mark.parametrize(
    ("answers", "last"),
    [((READY, AWAY), "does not answer; this view waits"), ((AWAY, READY), "all is well")],
)
def test_the_view_outlasts_a_supervisor_that_is_away_and_says_so(
    answers: tuple[Any, ...], last: str, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(running, "WATCH_EVERY_S", 0.0)
    monkeypatch.delenv("NO_COLOR", raising=False)
    client: Any = Told(*answers)
    with pytest.raises(KeyboardInterrupt):
        running.status(client, Output(stream=Terminal()), watch=True)
    assert last in " ".join(capsys.readouterr().out.split())
