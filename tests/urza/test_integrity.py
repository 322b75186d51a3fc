"""A damaged library serves nothing wrong, notices what was hit, and heals."""

import random
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from esper_async.urza import Library, Lifecycle, Query

KEYS = [f"BP{number:03d}:spatial-{number}x4x4" for number in range(1, 13)]


def certificate_of(key: str) -> dict[str, object]:
    return {"key": key, "passed": True, "parameters": len(key) * 100}


def certify(library: Library, key: str) -> None:
    library.put_certificate(key, certificate_of(key), blueprint=key[:5], interface=key[6:])


def filled(directory: Path) -> None:
    library = Library(directory)
    for key in KEYS:
        certify(library, key)
    library.tag(f"{KEYS[0]}@1", "kept")
    library.close()


def flip(path: Path, position: int, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(bytes(content))


def blob_path(library: Library, key: str) -> Path:
    return library._shelves._blobs.path(library.get(key).blob)


@pytest.fixture
def library(tmp_path: Path):
    filled(tmp_path)
    opened = Library(tmp_path)
    yield opened
    opened.close()


def test_a_flipped_bit_in_a_blob_makes_the_asset_absent_and_reported(library: Library):
    found = []
    library._on_damage = found.append
    flip(blob_path(library, KEYS[3]), 5, 2)
    assert library.certificate(KEYS[3]) is None
    assert library.certificate(KEYS[3]) is None
    assert library.get(KEYS[3]) is None
    (asset,) = library.find(Query(lifecycle=Lifecycle.QUARANTINED))
    assert asset.key == KEYS[3]
    assert [failure.what for failure in found] == ["blob"]
    assert library.statistics.integrity_failures == 1
    actions = [entry.action for entry in library.audit(asset_id=asset.id)]
    assert actions == ["integrity_failure", "quarantined", "put"]
    assert len(list((library.directory / "quarantine").iterdir())) == 1


def test_putting_a_quarantined_certificate_again_heals_it_as_a_new_version(library: Library):
    flip(blob_path(library, KEYS[3]), 0, 0)
    assert library.certificate(KEYS[3]) is None
    certify(library, KEYS[3])
    assert library.certificate(KEYS[3]) == certificate_of(KEYS[3])
    assert library.get(KEYS[3]).version == 2
    assert library.verify().clean


def test_a_missing_blob_is_treated_like_a_damaged_one(library: Library):
    blob_path(library, KEYS[2]).unlink()
    assert library.certificate(KEYS[2]) is None
    certify(library, KEYS[2])
    assert library.certificate(KEYS[2]) == certificate_of(KEYS[2])


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE assets SET record = replace(record, 'true', 'false')",
        "UPDATE assets SET record = replace(record, 'active', 'draft'), lifecycle = 'draft'",
        "UPDATE assets SET digest = 'x' || substr(digest, 2)",
        "UPDATE assets SET blob = (SELECT blob FROM assets WHERE rowid = 2)",
        "UPDATE assets SET key = key || '.'",
        "UPDATE assets SET id = id || '.', key = key || '.', lifecycle = 'quarantined'",
        "UPDATE assets SET version = version + 3",
        "UPDATE assets SET record = 7",
        "DELETE FROM assets",
    ],
)
def test_a_damaged_row_is_restored_from_its_sidecar(library: Library, damage: str):
    hurt = sqlite3.connect(library.directory / "catalogue.sqlite")
    hurt.execute(damage + (" WHERE rowid IN (4, 5)" if "DELETE" not in damage else ""))
    hurt.commit()
    hurt.close()
    for key in KEYS:
        assert library.certificate(key) == certificate_of(key)
    library.verify()
    assert library.verify().clean
    assert len(library.find()) == len(KEYS)


def test_a_query_that_meets_a_damaged_row_restores_it(library: Library):
    hurt = sqlite3.connect(library.directory / "catalogue.sqlite")
    hurt.execute("UPDATE assets SET digest = '' WHERE rowid = 4")
    hurt.commit()
    hurt.close()
    assert {asset.key for asset in library.find(Query(kind="certificate"))} == set(KEYS)
    assert any(entry.action == "integrity_failure" for entry in library.audit())


def test_a_deleted_catalogue_is_rebuilt_from_the_sidecars_with_its_tags(tmp_path: Path):
    filled(tmp_path)
    for path in tmp_path.glob("catalogue*"):
        path.unlink()
    library = Library(tmp_path)
    assert {asset.key for asset in library.find()} == set(KEYS)
    assert [asset.key for asset in library.find(Query(tag="kept"))] == [KEYS[0]]
    library.close()


@pytest.mark.parametrize("length", [0, 100, 5000])
def test_a_catalogue_overwritten_with_rubbish_is_rebuilt_while_it_is_open_elsewhere(
    tmp_path: Path, length: int
):
    filled(tmp_path)
    bystander = Library(tmp_path)
    assert bystander.certificate(KEYS[0]) is not None
    path = (tmp_path / "catalogue.sqlite").resolve()
    path.write_bytes(random.Random(1).randbytes(length))
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    library = Library(tmp_path)
    assert library.verify().checked == len(KEYS)
    assert library.certificate(KEYS[5]) == certificate_of(KEYS[5])
    certify(library, "new-key")
    assert bystander.certificate("new-key") == certificate_of("new-key")
    bystander.close()
    library.close()
    assert Library(tmp_path).verify().clean


def test_the_audit_log_outlives_a_damaged_catalogue_where_it_can_be_read(tmp_path: Path):
    filled(tmp_path)
    library = Library(tmp_path)
    before = len(library.audit(limit=1000))
    library._shelves.database.rebuild("a test")
    after = library.audit(limit=1000)
    assert after[0].action == "catalogue_rebuilt"
    assert len(after) == before + 1
    assert all(entry.intact for entry in after)
    library.close()


def test_a_damaged_sidecar_is_written_again_from_its_row(library: Library):
    path = library._shelves._sidecars.path(KEYS[1], 1)
    before = path.read_bytes()
    flip(path, 30, 1)
    assert library.verify().rewritten_sidecars == 1
    assert path.read_bytes() == before


def test_a_change_that_the_catalogue_has_lost_comes_back_from_its_sidecar(tmp_path: Path):
    """As when the write-ahead log is damaged before it was checkpointed, and power fails."""
    filled(tmp_path)
    library = Library(tmp_path)
    database = (tmp_path / "catalogue.sqlite").resolve()
    before = database.read_bytes()
    library.advance(f"{KEYS[0]}@1", Lifecycle.QUARANTINED, reason="harmful")
    library.tag(f"{KEYS[1]}@1", "late")
    library.close()
    database.write_bytes(before)
    after = Library(tmp_path)
    assert after.certificate(KEYS[0]) is None
    assert after.get(KEYS[1]).tags[0] == "late"
    after.verify()
    assert after.verify().clean
    assert [entry.action for entry in after.audit(asset_id=f"{KEYS[1]}@1")] == ["tag", "put"]
    after.close()


def test_a_catalogue_of_another_schema_is_made_anew_from_the_sidecars(tmp_path: Path):
    filled(tmp_path)
    hurt = sqlite3.connect(tmp_path / "catalogue.sqlite")
    hurt.execute("PRAGMA user_version = 1")
    hurt.close()
    found = []
    library = Library(tmp_path, on_damage=found.append)
    assert {asset.key for asset in library.find()} == set(KEYS)
    assert [(each.what, "schema 1" in each.detail) for each in found] == [("catalogue", True)]
    library.close()


def test_a_sidecar_left_by_a_crash_before_the_commit_is_adopted(library: Library):
    certify(library, "late")
    hurt = sqlite3.connect(library.directory / "catalogue.sqlite")
    hurt.execute("DELETE FROM assets WHERE key = 'late'")
    hurt.commit()
    hurt.close()
    assert library.certificate("late") == certificate_of("late")


def test_random_bit_flips_are_never_served_and_always_healed(tmp_path: Path):
    filled(tmp_path)
    chance = random.Random(20)
    detected = 0
    for _ in range(60):
        files = [
            path
            for path in tmp_path.rglob("*")
            if path.is_file()
            and not path.is_symlink()
            and "quarantine" not in path.parts
            and path.name != "catalogue.lock"
            and path.stat().st_size
        ]
        current = (tmp_path / "catalogue.sqlite").resolve()
        target = current if chance.random() < 0.4 else chance.choice(files)
        flip(target, chance.randrange(target.stat().st_size), chance.randrange(8))
        library = Library(tmp_path)
        for key in KEYS:
            served = library.certificate(key)
            assert served in (None, certificate_of(key))
        report = library.verify()
        detected += library.statistics.integrity_failures or not report.clean
        for key in KEYS:
            if library.certificate(key) is None:
                certify(library, key)
            assert library.certificate(key) == certificate_of(key)
        assert library.verify().clean
        library.close()
    assert detected > 10


WRITER = """
import sys
from pathlib import Path
from esper_async.urza import Library
library = Library(Path(sys.argv[1]), actor=sys.argv[2])
for number in range(25):
    library.put_certificate(f"shared{number}", {"n": number}, blueprint="B", interface="i")
    library.put(f"{sys.argv[2]}-{number}", sys.argv[2].encode(), kind="kernel")
    assert library.certificate(f"shared{number}") == {"n": number}
    if number == 12 and sys.argv[2] == "writer0":
        library._shelves.database.rebuild("a test")
"""


def test_several_processes_write_at_once_and_lose_nothing(tmp_path: Path):
    """One of them even rebuilds the catalogue under the others."""
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path), f"writer{number}"])
        for number in range(3)
    ]
    assert [writer.wait(60) for writer in writers] == [0, 0, 0]
    library = Library(tmp_path)
    library.verify()
    assert library.verify().clean
    for number in range(25):
        assert library.certificate(f"shared{number}") == {"n": number}
        assert library.get(f"shared{number}").version == 1
        for writer in range(3):
            assert library.read(f"writer{writer}-{number}") == f"writer{writer}".encode()
    library.close()


KILLED = """
import os, sys
from pathlib import Path
from esper_async.urza import Library
library = Library(Path(sys.argv[1]))
print("ready", flush=True)
number = 0
while True:
    library.put(f"k{number}", str(number).encode() * 50, kind="kernel")
    print(number, flush=True)
    number += 1
"""


def test_what_a_put_returned_survives_a_kill(tmp_path: Path):
    writer = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    last = -1
    while last < 30:
        last = int(writer.stdout.readline())
    writer.kill()
    rest = writer.stdout.read().split("\n")[:-1]
    writer.stdout.close()
    writer.wait()
    last = int(rest[-1]) if rest and rest[-1].isdigit() else last
    library = Library(tmp_path)
    for number in range(last + 1):
        assert library.read(f"k{number}") == str(number).encode() * 50
    library.verify()
    assert library.verify().clean
    library.close()
