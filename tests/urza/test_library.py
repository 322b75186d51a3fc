"""The library keeps what it is given, serves it verified, and says what it did."""

import sqlite3
import time
from pathlib import Path

import pytest

from esper_async.runtime.breaker import BreakerOpen
from esper_async.runtime.clock import FakeClock
from esper_async.urza import Asset, Library, Lifecycle, Query
from esper_async.urza.errors import IllegalLifecycleError, UnknownAssetError

KEY = "BP009:spatial-8x4x4"


@pytest.fixture
def library(tmp_path: Path):
    opened = Library(tmp_path, actor="test")
    yield opened
    opened.close()


def certify(library: Library, key: str = KEY, passed: bool = True, blueprint: str = "BP009"):
    return library.put_certificate(
        key, {"passed": passed, "numbers": [1.5, 2]}, blueprint=blueprint, interface="spatial"
    )


def test_a_certificate_comes_back_as_it_was_put(library: Library):
    certify(library)
    assert library.certificate(KEY) == {"passed": True, "numbers": [1.5, 2]}


def test_what_was_never_put_is_absent(library: Library):
    assert library.certificate("nothing") is None
    assert library.get("nothing") is None


def test_a_second_library_object_sees_what_the_first_wrote(library: Library, tmp_path: Path):
    certify(library)
    other = Library(tmp_path)
    assert other.certificate(KEY) == library.certificate(KEY)
    other.close()


def test_a_cached_certificate_gives_way_to_a_newer_version_from_elsewhere(
    library: Library, tmp_path: Path
):
    certify(library)
    library.certificate(KEY)
    other = Library(tmp_path)
    certify(other, passed=False)
    other.close()
    assert library.certificate(KEY)["passed"] is False


def test_a_returned_certificate_can_be_changed_without_changing_the_library(library: Library):
    certify(library)
    library.certificate(KEY)["passed"] = "tampered"
    assert library.certificate(KEY)["passed"] is True


def test_the_same_content_makes_no_new_version_and_other_content_does(library: Library):
    assert certify(library).version == 1
    assert certify(library).version == 1
    assert certify(library, passed=False).version == 2
    assert library.get(KEY).id == f"{KEY}@2"


def test_a_figure_that_is_no_number_is_refused_and_leaves_nothing(library: Library):
    with pytest.raises(ValueError):
        library.put_certificate(KEY, {"loss": float("nan")}, blueprint="", interface="")
    with pytest.raises(ValueError):
        library.put(KEY, b"x", kind="kernel", performance={"forward_ms": float("inf")})
    assert library.get(KEY) is None
    assert library.verify().clean


def test_hits_in_memory_take_microseconds_and_stay_in_the_byte_budget(tmp_path: Path):
    library = Library(tmp_path, cache_bytes=300)
    for number in range(20):
        library.put(f"k{number}", b"x" * 100, kind="kernel")
        library.read(f"k{number}")
    assert library._shelves._cache.size_bytes <= 300
    library.read("k19")
    durations = []
    for _ in range(200):
        started = time.perf_counter()
        library.read("k19")
        durations.append(time.perf_counter() - started)
    assert library.statistics.cache_hits >= 200
    assert sorted(durations)[100] < 200e-6
    library.close()


def test_queries_combine_tag_kind_blueprint_interface_and_lifecycle(library: Library):
    library.put("a", b"1", kind="kernel", blueprint="BP001", interface="s", tags=("fast", "cpu"))
    library.put("b", b"2", kind="kernel", blueprint="BP001", interface="q", tags=("fast",))
    library.put(
        "c", b"3", kind="draft", blueprint="BP002", interface="s", lifecycle=Lifecycle.DRAFT
    )
    keys = lambda **query: sorted(asset.key for asset in library.find(Query(**query)))  # noqa: E731
    assert keys(tag="fast") == ["a", "b"]
    assert keys(tag="fast", interface="q") == ["b"]
    assert keys(blueprint="BP001", tag="cpu") == ["a"]
    assert keys(lifecycle=Lifecycle.DRAFT) == ["c"]
    assert keys(kind="kernel", interface="s") == ["a"]
    assert len(library.find(limit=2)) == 2


def test_an_asset_moves_only_along_its_lifecycle(library: Library):
    asset = library.put("a", b"1", kind="kernel", lifecycle=Lifecycle.DRAFT)
    assert library.get("a") is None
    with pytest.raises(IllegalLifecycleError):
        library.advance(asset.id, Lifecycle.ACTIVE, reason="too early")
    library.advance(asset.id, Lifecycle.VALIDATED, reason="proved")
    library.advance(asset.id, Lifecycle.ACTIVE, reason="chosen")
    assert library.read("a") == b"1"
    library.advance(asset.id, Lifecycle.DEPRECATED, reason="slower")
    assert library.read("a") is None
    library.advance(asset.id, Lifecycle.QUARANTINED, reason="harmful")
    with pytest.raises(IllegalLifecycleError):
        library.advance(asset.id, Lifecycle.ACTIVE, reason="never")


def test_every_changing_access_is_audited_and_reading_is_not(library: Library):
    asset = library.put("a", b"1", kind="kernel")
    library.tag(asset.id, "fast")
    library.tag(asset.id, "fast")
    library.measure(asset.id, forward_ms=0.4)
    library.hold(asset.id, "run:1")
    library.release(asset.id, "run:1")
    library.advance(asset.id, Lifecycle.DEPRECATED, reason="old")
    library.read("a")
    library.find(Query(tag="fast"))
    entries = library.audit(asset_id=asset.id)
    actions = [entry.action for entry in reversed(entries)]
    assert actions == ["put", "tag", "measure", "hold", "release", "deprecated"]
    assert all(entry.intact and entry.actor == "test" for entry in entries)


def test_changing_an_unknown_asset_raises(library: Library):
    with pytest.raises(UnknownAssetError, match="nothing@1"):
        library.tag("nothing@1", "fast")


def test_lineage_names_the_ancestors_nearest_first(library: Library):
    root = library.put("root", b"1", kind="blueprint")
    middle = library.put("middle", b"2", kind="certificate", parents=(root.id,))
    leaf = library.put("leaf", b"3", kind="kernel", parents=(middle.id,))
    assert [asset.key for asset in library.lineage(leaf.id)] == ["leaf", "middle", "root"]


def aged(tmp_path: Path) -> tuple[Library, FakeClock]:
    clock = FakeClock(wall=time.time())
    return Library(tmp_path, clock=clock), clock


def test_collection_takes_only_what_is_superseded_or_withdrawn_and_old(tmp_path: Path):
    library, clock = aged(tmp_path)
    for content in (b"old", b"new"):
        library.put("a", content, kind="kernel")
    gone = library.put("b", b"withdrawn", kind="kernel")
    library.advance(gone.id, Lifecycle.DEPRECATED, reason="")
    assert library.collect_garbage(min_age_s=60).assets == 0
    clock.advance(120)
    collected = library.collect_garbage(min_age_s=60)
    assert (collected.assets, collected.blobs) == (2, 2)
    assert collected.freed_bytes == len(b"old") + len(b"withdrawn")
    assert library.read("a") == b"new"
    assert library.verify().clean
    library.close()


def test_collection_never_takes_what_is_held_or_what_something_was_made_from(tmp_path: Path):
    library, clock = aged(tmp_path)
    parent = library.put("parent", b"p", kind="kernel")
    library.advance(parent.id, Lifecycle.DEPRECATED, reason="")
    library.put("child", b"c", kind="kernel", parents=(parent.id,))
    held = library.put("held", b"h", kind="kernel")
    library.advance(held.id, Lifecycle.DEPRECATED, reason="")
    library.hold(held.id, "run:7")
    clock.advance(120)
    assert library.collect_garbage(min_age_s=60).assets == 0
    library.release(held.id, "run:7")
    assert library.collect_garbage(min_age_s=60).assets == 1
    library.close()


def test_a_failing_disk_opens_the_breaker_and_memory_still_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    library, clock = aged(tmp_path)
    certify(library)
    library.certificate(KEY)

    def no_disk(_work: object) -> object:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(library._shelves.database, "read", no_disk)
    for _ in range(3):
        with pytest.raises(sqlite3.OperationalError):
            library.get("other")
    with pytest.raises(BreakerOpen):
        library.get("other")
    assert library.certificate(KEY) is not None
    monkeypatch.undo()
    clock.advance(31)
    assert library.get("other") is None
    assert library.breaker.state == "closed"
    library.close()


def test_counts_are_by_lifecycle_and_kind(library: Library):
    certify(library)
    library.put("k", b"1", kind="kernel", lifecycle=Lifecycle.DRAFT)
    assert library.counts() == {
        "lifecycle": {"active": 1, "draft": 1},
        "kind": {"certificate": 1, "kernel": 1},
    }


def test_an_asset_record_survives_its_own_text():
    asset = Asset("k", 3, "kernel", "ab", 2, 1.5, tags=("x",), performance={"ms": 0.1}, stage=2)
    assert Asset.from_json(asset.to_json()) == asset
