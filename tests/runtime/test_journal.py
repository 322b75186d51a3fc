"""The journal on disk: numbered, checksummed, torn tails cut off, damage noticed."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.runtime.journal import Journal, JournalDamagedError, read_journal


def written(path: Path, count: int) -> list[int]:
    journal = Journal.open(path)
    numbers = [journal.append({"kind": "x", "value": index}) for index in range(count)]
    journal.close()
    return numbers


def values(path: Path, after: int = 0) -> list[int]:
    return [record["value"] for record in read_journal(path, after)]


def test_records_are_numbered_from_one_and_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "journal.jsonl"
    assert written(path, 3) == [1, 2, 3]
    assert values(path) == [0, 1, 2]
    assert values(path, after=2) == [2]


def test_a_reopened_journal_goes_on_counting(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path, 2)
    assert written(path, 2) == [3, 4]
    assert len(values(path)) == 4


def test_a_missing_journal_has_no_records(tmp_path: Path) -> None:
    assert values(tmp_path / "none") == []


@settings(max_examples=30, deadline=None)
@given(cut=st.integers(1, 200))
def test_a_torn_tail_is_cut_off_and_the_rest_is_kept(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    path = tmp_path_factory.mktemp("torn") / "journal.jsonl"
    written(path, 4)
    body = path.read_bytes()
    path.write_bytes(body[: max(len(body) - cut, 0)])
    whole = path.read_bytes().count(b"\n")

    assert values(path) == list(range(whole))
    journal = Journal.open(path)
    assert journal.append({"kind": "x", "value": 99}) == whole + 1
    journal.close()
    assert values(path) == [*range(whole), 99]


def test_damage_before_the_last_record_raises_and_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path, 4)
    body = bytearray(path.read_bytes())
    body[30] ^= 1
    path.write_bytes(bytes(body))
    with pytest.raises(JournalDamagedError, match=r"journal\.jsonl"):
        values(path)
    with pytest.raises(JournalDamagedError):
        Journal.open(path)


def test_a_missing_record_raises(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    written(path, 3)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + lines[2])
    with pytest.raises(JournalDamagedError, match="expected record 2"):
        values(path)


def test_what_is_not_json_is_refused_and_not_numbered(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal.open(path)
    with pytest.raises(ValueError, match="JSON"):
        journal.append({"value": float("nan")})
    assert journal.append({"value": 1}) == 1
    journal.close()


def test_a_disk_that_refuses_leaves_no_half_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal.open(path)
    journal.append({"value": 0})
    size = path.stat().st_size

    def full(_: int) -> None:
        raise OSError(28, "no space left")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            journal.append({"value": 1})
    assert path.stat().st_size == size
    assert journal.append({"value": 2}) == 2
    journal.close()
    assert values(path) == [0, 2]


def test_after_closing_nothing_can_be_appended(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "journal.jsonl")
    journal.close()
    with pytest.raises(ValueError, match="closed"):
        journal.append({"value": 1})
