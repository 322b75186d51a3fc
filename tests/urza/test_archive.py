"""A library travels as one archive; what is not as it was written is refused whole."""

import io
import json
import random
import tarfile
from pathlib import Path

import pytest

from esper_async.leyline.signing import Signer
from esper_async.urza import Library, Lifecycle
from esper_async.urza.errors import ArchiveError
from esper_async.urza.records import canonical, digest_of

SIGNER = Signer(bytes(32))


def filled(directory: Path) -> Library:
    library = Library(directory, signer=SIGNER)
    for number in range(5):
        library.put_certificate(
            f"k{number}", {"passed": True, "number": number}, blueprint="BP009", interface="s"
        )
    root = library.put("root", b"first", kind="kernel")
    library.put("root", b"second", kind="kernel", parents=(root.id,), tags=("kept",))
    library.hold("root@2", "run:7")
    library.measure("root@2", forward_ms=0.25)
    return library


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    library = filled(tmp_path / "home")
    told = library.export_to(tmp_path / "library.tar")
    library.close()
    assert (told.assets, told.blobs, told.sealed, told.lost) == (7, 7, 0, 0)
    assert told.size_bytes == (tmp_path / "library.tar").stat().st_size
    return tmp_path / "library.tar"


@pytest.fixture
def away(tmp_path: Path):
    library = Library(tmp_path / "away", signer=SIGNER)
    yield library
    library.close()


def test_all_versions_arrive_as_they_were_but_for_who_holds_them(archive: Path, away: Library):
    told = away.import_from(archive)
    assert (told.assets, told.known, told.sealed) == (7, 0, 0)
    assert away.read("root") == b"second"
    asset = away.get("root")
    assert (asset.id, asset.tags, asset.parents) == ("root@2", ("kept",), ("root@1",))
    assert asset.performance == {"forward_ms": 0.25}
    assert asset.holders == ()
    assert [each.id for each in away.lineage("root@2")] == ["root@2", "root@1"]
    assert away.certificate("k3") == {"passed": True, "number": 3}
    assert {entry.action for entry in away.audit()} == {"imported"}
    assert away.verify().clean


def test_what_is_known_here_stays_as_it_is(archive: Path, away: Library):
    away.put("root", b"ours", kind="kernel")
    away.put("k1", b"draft", kind="kernel", lifecycle=Lifecycle.DRAFT)
    told = away.import_from(archive)
    assert (told.assets, told.known) == (4, 3)
    assert away.read("root") == b"ours"
    assert away.get("k1") is None
    again = away.import_from(archive)
    assert (again.assets, again.known) == (0, 7)


def test_the_sealed_stays_at_home_and_the_damaged_is_left_out(tmp_path: Path, away: Library):
    library = filled(tmp_path / "home")
    library.put("compiled", b"program", kind="program", sealed=True)
    library._shelves._blobs.path(library.get("k1").blob).write_bytes(b"rubbish")
    told = library.export_to(tmp_path / "library.tar")
    library.close()
    assert (told.assets, told.sealed, told.lost) == (6, 1, 1)
    away.import_from(tmp_path / "library.tar")
    assert away.get("compiled") is None
    assert away.get("k1") is None


def forge(path: Path, records: list[dict], blobs: dict[str, bytes]) -> None:
    texts = [canonical(record) for record in records]
    text = canonical({"format": "esper-library", "version": 1, "assets": texts})
    manifest = canonical({"digest": digest_of(text), "manifest": text}).encode()
    with tarfile.open(path, "w") as tar:
        for name, content in {"manifest.json": manifest, **blobs}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def record_of(content: bytes, **changes) -> dict:
    from hashlib import sha256

    fields = {
        "key": "k", "version": 1, "kind": "kernel", "blob": sha256(content).hexdigest(),
        "size_bytes": len(content), "created_at": 1.0, "blueprint": "", "interface": "",
        "lifecycle": "active", "tags": [], "parents": [], "holders": [], "performance": {},
        "tier": "", "stage": None, "risk": None, "seal": "", "revision": 1,
    }  # fmt: skip
    return fields | changes


def test_a_forged_seal_is_refused_and_so_is_code_without_one(tmp_path: Path, away: Library):
    evil = b"runs code"
    sealed = record_of(evil, key="sealed", kind="program", seal="00" * 32)
    plain = record_of(evil, key="plain", kind="program")
    forge(tmp_path / "evil.tar", [sealed, plain], {f"blobs/{sealed['blob']}": evil})
    assert away.import_from(tmp_path / "evil.tar").sealed == 1
    assert away.get("sealed") is None
    assert away.read("plain", sealed=True) is None


@pytest.mark.parametrize(
    ("changes", "blobs", "says"),
    [
        ({}, {}, "lacks 1 blobs"),
        ({}, {"blobs/{blob}": b"Content"}, "is damaged"),
        ({}, {"blobs/{blob}": b"content", "../outside": b"x"}, "its manifest lacks"),
        ({}, {"{blob}": b"content"}, "its manifest lacks"),
        ({"size_bytes": 3}, {"blobs/{blob}": b"content"}, "not what its manifest says"),
        ({"size_bytes": "7"}, {"blobs/{blob}": b"content"}, "cannot be read"),
        ({"key": 5}, {"blobs/{blob}": b"content"}, "cannot be read"),
        ({"lifecycle": "eternal"}, {"blobs/{blob}": b"content"}, "cannot be read"),
        ({"surprise": 1}, {"blobs/{blob}": b"content"}, "cannot be read"),
    ],
)
def test_an_archive_that_contradicts_itself_is_refused(
    tmp_path: Path, away: Library, changes: dict, blobs: dict, says: str
):
    record = record_of(b"content", **changes)
    named = {name.format(blob=record["blob"]): content for name, content in blobs.items()}
    forge(tmp_path / "odd.tar", [record], named)
    with pytest.raises(ArchiveError, match=says):
        away.import_from(tmp_path / "odd.tar")
    assert away.find() == []
    assert not (tmp_path / "outside").exists()


def test_a_link_in_the_place_of_a_blob_is_refused(tmp_path: Path, away: Library):
    record = record_of(b"content")
    forge(tmp_path / "link.tar", [record], {})
    with tarfile.open(tmp_path / "link.tar", "a") as tar:
        member = tarfile.TarInfo(f"blobs/{record['blob']}")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/hostname"
        tar.addfile(member)
    with pytest.raises(ArchiveError, match="not what its manifest says"):
        away.import_from(tmp_path / "link.tar")


def test_an_archive_of_a_later_form_is_refused_by_name(tmp_path: Path, away: Library):
    text = json.dumps({"format": "esper-library", "version": 2, "assets": []})
    manifest = json.dumps({"digest": digest_of(text), "manifest": text}).encode()
    with tarfile.open(tmp_path / "later.tar", "w") as tar:
        member = tarfile.TarInfo("manifest.json")
        member.size = len(manifest)
        tar.addfile(member, io.BytesIO(manifest))
    with pytest.raises(ArchiveError, match="this reads esper-library 1"):
        away.import_from(tmp_path / "later.tar")


def test_other_files_are_refused(tmp_path: Path, away: Library):
    (tmp_path / "text").write_text("no archive at all\n" * 100)
    (tmp_path / "empty").write_bytes(b"")
    for name in ("text", "empty"):
        with pytest.raises(ArchiveError, match="no library archive"):
            away.import_from(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        away.import_from(tmp_path / "nowhere")


def test_a_damaged_or_shortened_archive_is_refused_whole_or_holds_the_same(
    tmp_path: Path, archive: Path
):
    """A flipped bit in a tar header's padding changes nothing that is taken in."""
    whole = archive.read_bytes()
    chance = random.Random(4)
    expected = {f"k{number}": {"passed": True, "number": number} for number in range(5)}
    refused = 0
    for attempt in range(60):
        content = bytearray(whole)
        if attempt < 10:
            del content[chance.randrange(len(whole)) :]
        else:
            content[chance.randrange(len(whole))] ^= 1 << chance.randrange(8)
        damaged = tmp_path / "damaged.tar"
        damaged.write_bytes(content)
        library = Library(tmp_path / f"away{attempt}")
        try:
            library.import_from(damaged)
        except ArchiveError:
            refused += 1
            assert library.find() == []
        else:
            assert {key: library.certificate(key) for key in expected} == expected
            assert library.read("root") == b"second"
        library.close()
    assert refused >= 20


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        (tarfile.XHDTYPE, b"99999999999999999999 path=x\n"),
        (tarfile.XHDTYPE, b"30 GNU.sparse.map=1,2,3\n"),
        (tarfile.XHDTYPE, b"11 size=x\n"),
        (tarfile.GNUTYPE_SPARSE, b"x"),
    ],
)
def test_a_header_that_no_tar_writes_is_refused(
    tmp_path: Path, archive: Path, away: Library, kind: bytes, body: bytes
):
    member = tarfile.TarInfo("odd")
    member.type, member.size = kind, len(body)
    odd = member.tobuf(tarfile.USTAR_FORMAT) + body.ljust(512, b"\0") + archive.read_bytes()
    (tmp_path / "odd.tar").write_bytes(odd)
    with pytest.raises(ArchiveError, match=r"odd\.tar"):
        away.import_from(tmp_path / "odd.tar")


def test_a_manifest_of_many_brackets_is_refused(tmp_path: Path, away: Library):
    for text in (
        "[" * 5_000,
        json.dumps({"digest": digest_of("[" * 5_000), "manifest": "[" * 5_000}),
    ):
        with tarfile.open(tmp_path / "deep.tar", "w") as tar:
            member = tarfile.TarInfo("manifest.json")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        with pytest.raises(ArchiveError, match="cannot be read"):
            away.import_from(tmp_path / "deep.tar")


def test_a_full_disk_leaves_no_half_archive(
    tmp_path: Path, away: Library, monkeypatch: pytest.MonkeyPatch
):
    def no_space(*_: object) -> None:
        raise OSError(28, "No space left on device")

    away.put("k", b"content", kind="kernel")
    monkeypatch.setattr(tarfile.TarFile, "addfile", no_space)
    with pytest.raises(OSError, match="No space left"):
        away.export_to(tmp_path / "library.tar")
    assert list(tmp_path.glob("*library.tar*")) == []
