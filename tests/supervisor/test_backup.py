"""A backup of a directory in use is whole, and a restored one is all of it or nothing."""

import gzip
import io
import json
import os
import sqlite3
import tarfile
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from esper_async.supervisor import backup
from esper_async.supervisor.backup import MANIFEST, back_up
from esper_async.supervisor.errors import BackupError, WrongBackupError
from esper_async.supervisor.restore import restore
from esper_async.supervisor.state_dir import upgrade


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with something of each kind in it."""
    folder = tmp_path / "state"
    upgrade_in(folder)
    run = folder / "runs" / "digits-1"
    for name, text in {
        "leyline.key": "secret",
        "supervisor.json": "{}",
        "lock": "1",
        "runs/digits-1/run.json": "{}",
        "runs/digits-1/state.json": '{"state": "running"}',
        "runs/digits-1/journal.jsonl": '{"seq": 1}\n{"seq": 2}\n{"se',
        "runs/digits-1/checkpoints/100.pt": "tensors",
        "runs/digits-1/checkpoints/100.json": "{}",
        "runs/digits-1/checkpoints/200.json": "{}",
        "runs/digits-1/spool/spool.lock": "",
        "redis/redis.conf": "port 0",
        "redis/appendonlydir/aof.1.incr": "SET x 1",
        "redis/appendonlydir/aof.manifest": "file aof.1.incr",
        "urza/blobs/ab/abc": "kernel",
        "urza/.scratch": "half",
    }.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with closing(sqlite3.connect(run / "spool" / "spool.sqlite")) as database, database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE spool (seq INTEGER PRIMARY KEY, wire BLOB)")
        database.execute("INSERT INTO spool (wire) VALUES (x'01')")
    (folder / "urza" / "catalogue-0001.sqlite").touch()
    (folder / "urza" / "catalogue.sqlite").symlink_to("catalogue-0001.sqlite")
    return folder


def upgrade_in(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    upgrade(folder)


def test_what_the_controller_has_read_is_copied_before_the_journals_it_read(
    state: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    whole = backup._copy

    def copy(path: Path, to: Path) -> None:
        copied.append(path.name)
        whole(path, to)

    (state / "tamiyo").mkdir()
    (state / "tamiyo" / "policies.json").write_text("{}")
    monkeypatch.setattr(backup, "_copy", copy)
    back_up(state, tmp_path / "b.tar.gz")
    assert copied.index("policies.json") < copied.index("journal.jsonl")


def test_what_lasts_comes_back_and_what_passes_does_not(state: Path, tmp_path: Path) -> None:
    made = back_up(state, tmp_path / "b.tar.gz", version="1.2.3")
    assert (made.runs, made.size_bytes) == (1, made.path.stat().st_size)
    again = restore(made.path, tmp_path / "again").state_dir
    files = {str(path.relative_to(again)) for path in again.rglob("*") if not path.is_dir()}
    assert files == {
        "format",
        "leyline.key",
        "runs/digits-1/run.json",
        "runs/digits-1/state.json",
        "runs/digits-1/journal.jsonl",
        "runs/digits-1/checkpoints/100.pt",
        "runs/digits-1/checkpoints/100.json",
        "runs/digits-1/spool/spool.sqlite",
        "redis/appendonlydir/aof.1.incr",
        "redis/appendonlydir/aof.manifest",
        "urza/blobs/ab/abc",
        "urza/catalogue-0001.sqlite",
        "urza/catalogue.sqlite",
    }
    run = again / "runs" / "digits-1"
    assert (run / "journal.jsonl").read_text() == '{"seq": 1}\n{"seq": 2}\n'
    assert (again / "urza" / "catalogue.sqlite").readlink() == Path("catalogue-0001.sqlite")
    with closing(sqlite3.connect(run / "spool" / "spool.sqlite")) as database:
        assert database.execute("SELECT wire FROM spool").fetchall() == [(b"\x01",)]


def test_nobody_else_can_read_a_backup_or_what_comes_out_of_it(state: Path, tmp_path: Path) -> None:
    made = back_up(state, tmp_path / "b.tar.gz")
    assert made.path.stat().st_mode & 0o777 == 0o600
    again = restore(made.path, tmp_path / "again").state_dir
    assert again.stat().st_mode & 0o777 == 0o700
    modes = {path.stat().st_mode & 0o077 for path in again.rglob("*") if path.is_file()}
    assert modes == {0}


def test_nothing_is_left_in_the_directory_that_was_copied(state: Path, tmp_path: Path) -> None:
    before = sorted(state.rglob("*"))
    back_up(state, tmp_path / "b.tar.gz")
    assert sorted(state.rglob("*")) == before
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_database_that_is_written_to_meanwhile_is_copied_whole(
    state: Path, tmp_path: Path
) -> None:
    path = state / "simic" / "experience.sqlite"
    path.parent.mkdir()
    stop, began = threading.Event(), threading.Event()

    def write() -> None:
        with closing(sqlite3.connect(path, timeout=30)) as database:
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("CREATE TABLE pairs (a INTEGER, b INTEGER)")
            number = 0
            while not stop.is_set():
                number += 1
                with database:
                    database.execute("INSERT INTO pairs VALUES (?, 0)", (number,))
                    database.execute("UPDATE pairs SET b = a WHERE a = ?", (number,))
                began.set()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert began.wait(10)
        made = back_up(state, tmp_path / "b.tar.gz")
    finally:
        stop.set()
        writer.join()
    again = restore(made.path, tmp_path / "again").state_dir
    with closing(sqlite3.connect(again / "simic" / "experience.sqlite")) as database:
        count, wrong = database.execute("SELECT COUNT(*), SUM(a <> b) FROM pairs").fetchone()
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert (count > 0, wrong) == (True, 0)


@pytest.mark.parametrize(
    ("where", "words"),
    [
        ("state/b.tar.gz", "inside what it is a copy of"),
        ("there.tar.gz", "is there already"),
        ("nowhere/b.tar.gz", "there is no folder"),
    ],
)
def test_a_place_that_will_not_do_is_refused(
    state: Path, tmp_path: Path, where: str, words: str
) -> None:
    (tmp_path / "there.tar.gz").touch()
    with pytest.raises(WrongBackupError, match=words):
        back_up(state, tmp_path / where)


def test_what_is_no_state_directory_is_not_backed_up(tmp_path: Path) -> None:
    with pytest.raises(WrongBackupError, match="is no state directory; name it with --state-dir"):
        back_up(tmp_path, tmp_path.parent / "b.tar.gz")


def test_a_directory_with_something_in_it_is_not_restored_over(state: Path, tmp_path: Path) -> None:
    made = back_up(state, tmp_path / "b.tar.gz")
    with pytest.raises(WrongBackupError, match="restore into a new one"):
        restore(made.path, state)


Change = Callable[[dict[str, bytes], dict[str, Any]], None]


def forged(path: Path, tmp_path: Path, change: Change) -> Path:
    """Return a copy of a backup after a change of its files or its manifest."""
    files: dict[str, bytes] = {}
    with tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if member.isreg() else None
            if content is not None:
                files[member.name] = content.read()
    manifest = json.loads(files.pop(MANIFEST))
    change(files, manifest)
    target = tmp_path / "forged.tar.gz"
    with tarfile.open(target, "w:gz") as archive:
        for name, content in {MANIFEST: json.dumps(manifest).encode(), **files}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return target


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda files, _: files.update({"../evil": b"x"}), "no file of a state directory"),
        (lambda files, _: files.update({"/etc/evil": b"x"}), "no file of a state directory"),
        (lambda files, _: files.update({"format": b"2"}), "the checksum of format is another"),
        (lambda files, _: files.update({"more": b"x"}), "more is not as its list"),
        (lambda files, _: files.pop("format"), "format is not as its list"),
        (lambda _, manifest: manifest.update(format=99), "of format 99; this one reads"),
        (lambda _, manifest: manifest.update(backup_version=7), "version 7"),
        (lambda _, manifest: manifest.pop("sha256"), "a damaged list"),
        (lambda _, manifest: manifest.update(created_at=1e300), "a damaged list"),
    ],
)
def test_a_forged_or_damaged_backup_leaves_nothing_behind(
    state: Path, tmp_path: Path, change: Change, words: str
) -> None:
    path = forged(back_up(state, tmp_path / "b.tar.gz").path, tmp_path, change)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(BackupError, match=words):
        restore(path, tmp_path / "again")
    assert sorted(tmp_path.iterdir()) == before
    assert not Path("/etc/evil").exists()


def test_a_header_that_no_tar_writes_is_refused(tmp_path: Path) -> None:
    member = tarfile.TarInfo("odd")
    body = b"99999999999999999999 path=x\n"
    member.type, member.size = tarfile.XHDTYPE, len(body)
    path = tmp_path / "b.tar.gz"
    path.write_bytes(gzip.compress(member.tobuf(tarfile.USTAR_FORMAT) + body.ljust(512, b"\0")))
    with pytest.raises(BackupError, match="could not be restored"):
        restore(path, tmp_path / "again")
    assert not (tmp_path / "again").exists()


@pytest.mark.parametrize("target", ["/etc/passwd", "../leyline.key", ".."])
def test_a_link_out_of_the_directory_is_refused(tmp_path: Path, target: str) -> None:
    path = tmp_path / "b.tar.gz"
    with tarfile.open(path, "w:gz") as archive:
        member = tarfile.TarInfo("link")
        member.type, member.linkname = tarfile.SYMTYPE, target
        archive.addfile(member)
    with pytest.raises(BackupError, match="no file of a state directory"):
        restore(path, tmp_path / "again")


def test_a_backup_that_was_cut_within_its_first_bytes_is_refused(
    state: Path, tmp_path: Path
) -> None:
    path = tmp_path / "b.tar.gz"
    back_up(state, path)
    whole = path.read_bytes()
    for size in range(12):
        path.write_bytes(whole[:size])
        with pytest.raises(BackupError, match=r"b\.tar\.gz"):
            restore(path, tmp_path / "again")


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_bytes_that_are_no_backup_are_refused_in_words(
    state: Path, tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "b.tar.gz"
    if not path.exists():
        back_up(state, path)
    whole = path.read_bytes()
    cut = data.draw(st.integers(0, len(whole)))
    noise = data.draw(st.binary(max_size=200))
    broken = tmp_path / "broken.tar.gz"
    broken.write_bytes(whole[:cut] + noise)
    if whole[:cut] + noise == whole:
        return
    again = tmp_path / f"again-{os.urandom(4).hex()}"
    try:
        restore(broken, again)
    except BackupError:
        assert not again.exists()
