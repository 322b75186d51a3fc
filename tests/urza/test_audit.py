"""The audit log is kept twice, and each copy is restored from the other."""

import sqlite3
from pathlib import Path

import pytest

from esper_async.urza import Library


@pytest.fixture
def library(tmp_path: Path):
    opened = Library(tmp_path, actor="test")
    for number in range(6):
        opened.put(f"k{number}", str(number).encode(), kind="kernel")
    yield opened
    opened.close()


def damage(library: Library, statement: str) -> None:
    hurt = sqlite3.connect(library.directory / "catalogue.sqlite")
    hurt.execute(statement)
    hurt.commit()
    hurt.close()


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit SET detail = '{}' WHERE seq = 3",
        "UPDATE audit SET actor = 'nobody' WHERE seq = 3",
        "UPDATE audit SET time = 'soon' WHERE seq = 3",
        "UPDATE audit SET digest = '' WHERE seq IN (3, 4)",
        "UPDATE audit SET seq = 30 WHERE seq = 3",
        "DELETE FROM audit WHERE seq > 2",
    ],
)
def test_a_damaged_entry_is_restored(library: Library, statement: str):
    before = library.audit()
    damage(library, statement)
    assert not library.verify().clean
    assert [entry for entry in library.audit() if entry.action == "put"] == before
    assert library.audit(limit=1)[0].action == "integrity_failure"
    assert library.verify().clean


@pytest.mark.parametrize("cut", ["a line", "half a line", "all", "a bit"])
def test_a_damaged_file_is_written_again_from_the_rows(library: Library, cut: str):
    path = library.directory / "audit.jsonl"
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    damaged = {
        "a line": b"".join(lines[1:]),
        "half a line": whole[:-20],
        "all": b"",
        "a bit": whole.replace(b"kernel", b"kerneL", 1),
    }
    path.write_bytes(damaged[cut])
    report = library.verify()
    assert report.rewritten_audit
    assert path.read_bytes() == whole
    assert library.verify().clean


def test_a_line_cut_short_by_a_crash_spoils_no_other(library: Library):
    path = library.directory / "audit.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    library.put("later", b"x", kind="kernel")
    before = library.audit()
    damage(library, "DELETE FROM audit WHERE seq = 7")
    library.verify()
    assert library.audit(asset_id="later@1") == before[:1]


def test_it_outlives_a_catalogue_of_which_nothing_can_be_read(library: Library):
    before = library.audit()
    path = (library.directory / "catalogue.sqlite").resolve()
    library.close()
    path.write_bytes(b"rubbish" * 2000)
    after = library.audit()
    assert after[0].action == "catalogue_rebuilt"
    assert after[1:] == before
