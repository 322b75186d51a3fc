"""Logs are kept to a size while somebody writes to them."""

from pathlib import Path

from esper_async.runtime.child_exit import log_tail
from esper_async.runtime.log_file import cut, rotate


def test_a_log_past_its_limit_begins_anew_under_the_pen_of_who_writes_it(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with path.open("ab", buffering=0) as pen:
        pen.write(b"old\n" * 100)
        assert rotate(path, 100)
        pen.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "log.jsonl.1").read_bytes() == b"old\n" * 100
    assert [each.name for each in tmp_path.iterdir() if each.name.startswith(".")] == []


def test_a_short_log_and_one_that_is_not_there_are_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    assert not rotate(path, 100)
    path.write_bytes(b"x" * 100)
    assert not rotate(path, 100)
    assert not (tmp_path / "log.jsonl.1").exists()


def test_cutting_frees_both_parts(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"x" * 300)
    rotate(path, 100)
    path.write_bytes(b"y" * 50)
    assert cut(path) == 350
    assert path.read_bytes() == b""
    assert not (tmp_path / "log.jsonl.1").exists()


def test_the_end_of_a_log_that_was_rotated_is_still_found(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_bytes(b"x" * 300)
    rotate(path, 100)
    path.write_bytes(b"last words")
    assert log_tail(path, 300) == "last words"
