"""Structured logs of the supervisor and of training processes become events."""

import json
import logging
from pathlib import Path

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.nissa.child_logs import ChildLogs
from esper_async.nissa.event_store import Event
from esper_async.nissa.own_logs import own_logs
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.log_file import rotate


class Cursors(dict[str, int]):
    def cursor(self, name: str) -> int:
        return self.get(name, 0)

    def set_cursor(self, name: str, place: int) -> None:
        self[name] = place


def written(folder: Path, text: str) -> None:
    path = folder / "runs" / "r1" / "log.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(text)


def line(event: str, level: str = "info", **fields: object) -> str:
    told = {"event": event, "level": level, "timestamp": "2026-01-01T00:00:00Z", **fields}
    return json.dumps(told) + "\n"


def test_structured_lines_become_events_with_their_time_level_and_fields(tmp_path: Path) -> None:
    written(tmp_path, line("loader_slow", "warning", seconds=2.5))
    [event] = ChildLogs(tmp_path, Cursors()).read(9.0)
    assert (event.name, event.level, event.run) == ("log.loader_slow", "warning", "r1")
    assert (event.message, event.time) == ("loader slow: seconds=2.5", 1_767_225_600.0)


def test_what_is_printed_is_gathered_and_a_traceback_is_an_error(tmp_path: Path) -> None:
    written(tmp_path, "loading\n\ndone\n" + line("begun"))
    written(tmp_path, 'Traceback (most recent call last):\n  File "x"\nValueError: no\n')
    printed, begun, failed = ChildLogs(tmp_path, Cursors()).read(9.0)
    assert (printed.name, printed.message) == ("log.output", "loading\ndone")
    assert begun.name == "log.begun"
    assert (failed.level, failed.message.splitlines()[-1]) == ("error", "ValueError: no")


def test_a_line_that_is_still_written_is_left_for_later(tmp_path: Path) -> None:
    logs = ChildLogs(tmp_path, Cursors())
    whole = line("begun")
    written(tmp_path, whole[:10])
    assert logs.read(9.0) == []
    written(tmp_path, whole[10:])
    assert [event.name for event in logs.read(9.0)] == ["log.begun"]
    assert logs.read(9.0) == []


def test_a_new_reader_goes_on_where_an_earlier_one_kept_its_place(tmp_path: Path) -> None:
    cursors = Cursors()
    first = ChildLogs(tmp_path, cursors)
    written(tmp_path, line("one"))
    [told] = first.read(9.0)
    again = ChildLogs(tmp_path, cursors).read(9.0)
    assert [event.uid for event in again] == [told.uid]  # the place was not kept yet
    first.read(9.0)
    written(tmp_path, line("two"))
    assert [event.name for event in ChildLogs(tmp_path, cursors).read(9.0)] == ["log.two"]


def test_a_log_that_was_begun_anew_is_followed_and_its_lines_are_others(tmp_path: Path) -> None:
    cursors = Cursors()
    logs = ChildLogs(tmp_path, cursors)
    written(tmp_path, line("same"))
    [before] = logs.read(9.0)
    logs.read(9.0)
    assert rotate(tmp_path / "runs" / "r1" / "log.jsonl", 10)
    assert logs.read(9.0) == []
    written(tmp_path, line("same"))
    [after] = ChildLogs(tmp_path, cursors).read(9.0)
    assert (after.name, after.uid != before.uid) == (before.name, True)


def test_what_a_worker_of_the_forge_writes_is_told_as_the_forges(tmp_path: Path) -> None:
    cursors = Cursors()
    path = tmp_path / "tezzeret" / "worker-0.log"
    path.parent.mkdir()
    path.write_text(
        line("slow_proof", "warning") + "Traceback (most recent call last):\nError: no\n"
    )
    logs = ChildLogs(tmp_path, cursors)
    told = logs.read(9.0)
    assert [(event.name, event.source, event.run) for event in told] == [
        ("log.slow_proof", "forge", ""), ("log.traceback", "forge", ""),
    ]  # fmt: skip
    assert logs.read(9.0) == ChildLogs(tmp_path, cursors).read(9.0) == []


def test_a_flood_is_cut_short_but_its_errors_are_not(tmp_path: Path) -> None:
    logs = ChildLogs(tmp_path, Cursors())
    written(tmp_path, "".join(line("chatter", n=n) for n in range(500)) + line("bad", "error"))
    told = logs.read(9.0)
    assert (len(told), told[-1].name, logs.dropped) == (201, "log.bad", 300)
    written(tmp_path, line("later"))
    assert [event.name for event in logs.read(90.0)] == ["log.later"]


@settings(deadline=None, max_examples=40)
@given(st.lists(st.text(max_size=60), max_size=30))
def test_nothing_that_a_process_writes_can_break_the_reader(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str]
) -> None:
    folder = tmp_path_factory.mktemp("runs")
    written(folder, "\n".join(lines).encode("utf-8", "replace").decode() + "\n")
    logs = ChildLogs(folder, Cursors())
    told = logs.read(9.0) + logs.read(9.0)
    assert len({event.uid for event in told}) == len(told)


def test_the_supervisors_own_log_entries_become_events_while_one_listens() -> None:
    heard: list[Event] = []
    log = structlog.get_logger("esper_async.oona")
    with own_logs(heard.append, FakeClock()):
        log.warning("redis_lost", run="r1", seconds=3, error=None)
        log.debug("chatter")
        logging.getLogger("asyncio").error("a task was %s", "lost")
    log.warning("afterwards")
    assert [(event.name, event.level, event.run) for event in heard] == [
        ("log.redis_lost", "warning", "r1"), ("log.a task was lost", "error", ""),
    ]  # fmt: skip
    assert heard[0].message == "redis lost: run=r1, seconds=3"
    assert heard[0].source == "supervisor"
