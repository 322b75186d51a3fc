"""A query finds what it admits, newest first, and never what it does not; budgets fail closed."""

import sqlite3
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.runtime.clock import FakeClock
from esper_async.urza import Library, Lifecycle, Query
from esper_async.urza.query import IDENTITY

INTERFACES = ("spatial-8x4x4", "feature-8")


def certify(library: Library, number: int, **about):
    told = {
        "blueprint": f"BP{number:03d}",
        "interface": INTERFACES[number % 2],
        "tier": "production" if number < 6 else "experimental",
        "stage": number // 2,
        "risk": number / 10,
    }
    record = {
        "passed": True,
        "parameter_count": 100 * number,
        "forward_flops": 1000 * number,
        "forward_ms": 0.5 * number,
    }
    record |= about.pop("record", {})
    return library.put_certificate(f"k{number}", record, **{**told, **about})


@pytest.fixture
def library(tmp_path: Path):
    opened = Library(tmp_path)
    yield opened
    opened.close()


@pytest.fixture
def ten(library: Library) -> Library:
    for number in range(10):
        certify(library, number)
    return library


def keys(library: Library, **conditions) -> list[str]:
    return [asset.key for asset in library.find(Query(**conditions))]


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({"tier": "experimental"}, ["k9", "k8", "k7", "k6"]),
        ({"stage": 2}, ["k5", "k4"]),
        ({"most_stage": 0}, ["k1", "k0"]),
        ({"most_risk": 0.2}, ["k2", "k1", "k0"]),
        ({"most_parameters": 100}, ["k1", "k0"]),
        ({"most_flops": 999}, ["k0"]),
        ({"most_latency_ms": 1.0}, ["k2", "k1", "k0"]),
        ({"interface": "feature-8", "most_risk": 0.5}, ["k5", "k3", "k1"]),
        ({"blueprint": "BP004"}, ["k4"]),
        ({"tier": "experimental", "most_parameters": 300}, []),
        ({"interface": "never seen"}, []),
    ],
)
def test_conditions_hold_together(ten: Library, conditions: dict, expected: list[str]):
    assert keys(ten, **conditions) == expected


def test_what_was_not_measured_is_within_no_budget(library: Library):
    certify(library, 0, record={"forward_ms": None, "parameter_count": None})
    library.put("plain", b"x", kind="kernel")
    assert keys(library, most_latency_ms=1e9) == []
    assert keys(library, most_parameters=1e9) == []
    assert keys(library, most_flops=1e9) == ["k0"]
    assert keys(library, most_risk=1.0) == ["k0"]


def test_a_changed_asset_is_found_by_what_is_said_of_it_now(ten: Library):
    assert keys(ten, most_latency_ms=0.0) == ["k0"]
    ten.measure("k0@1", forward_ms=9.0)
    ten.tag("k0@1", "slow")
    assert keys(ten, most_latency_ms=0.0) == []
    assert keys(ten, tag="slow") == ["k0"]
    assert len(ten.find()) == 10


def test_another_process_sees_changes_at_once(ten: Library, tmp_path: Path):
    other = Library(tmp_path)
    assert keys(other, stage=0) == ["k1", "k0"]
    ten.advance("k1@1", Lifecycle.DEPRECATED, reason="old")
    certify(ten, 0, stage=0, record={"forward_ms": 8.0})
    assert keys(other, stage=0, in_force=True) == ["k0", "k0"]
    assert keys(other, lifecycle=Lifecycle.DEPRECATED) == ["k1"]
    other.close()


def test_what_was_collected_is_found_no_more(tmp_path: Path):
    clock = FakeClock(wall=1_000_000.0)
    library = Library(tmp_path, clock=clock)
    for content in (b"old", b"new"):
        library.put("a", content, kind="kernel", stage=3)
    assert len(library.find(Query(stage=3))) == 2
    clock.advance(60)
    library.collect_garbage(min_age_s=1)
    assert [asset.version for asset in library.find(Query(stage=3))] == [2]
    library.close()


def test_a_rebuilt_catalogue_answers_as_the_old_one_did(ten: Library):
    before = keys(ten, tier="production")
    ten._shelves.database.rebuild("a test")
    assert sorted(keys(ten, tier="production")) == sorted(before)


def test_memory_does_not_grow_with_changes(ten: Library):
    for _ in range(300):
        ten._shelves.database.write(lambda c: c.execute("UPDATE assets SET seq = seq + 10"))
        assert len(ten.find()) == 10
    columns = ten._shelves._columns
    assert columns is not None
    assert len(columns._seqs) <= 2_048


def test_a_limit_takes_the_newest(ten: Library):
    assert [asset.key for asset in ten.find(Query(tier="production"), limit=2)] == ["k5", "k4"]


OPTIONAL = {
    "tier": st.sampled_from(["production", "experimental"]),
    "stage": st.integers(0, 5),
    "most_stage": st.integers(0, 5),
    "interface": st.sampled_from(INTERFACES),
    "most_risk": st.floats(0, 1),
    "most_parameters": st.integers(0, 1000),
    "most_flops": st.integers(0, 10_000),
    "most_latency_ms": st.floats(0, 5),
    "tag": st.sampled_from(["passed", "failed"]),
    "in_force": st.booleans(),
}


@pytest.fixture(scope="module")
def forty(tmp_path_factory: pytest.TempPathFactory):
    library = Library(tmp_path_factory.mktemp("forty"))
    for number in range(40):
        certify(library, number, risk=number / 40, record={"passed": number % 3 > 0})
        if number % 7 == 0:
            library.advance(f"k{number}@1", Lifecycle.DEPRECATED, reason="")
    yield library
    library.close()


@settings(deadline=None)
@given(conditions=st.fixed_dictionaries({}, optional=OPTIONAL), limit=st.integers(1, 50))
def test_a_query_answers_as_a_look_at_every_asset_does(forty: Library, conditions, limit):
    query = Query(**conditions)
    everything = forty.find()
    expected = [asset for asset in everything if query.admits(asset)][:limit]
    assert forty.find(query, limit=limit) == expected


def test_a_choice_is_the_newest_certified_kernel_within_the_budgets(ten: Library):
    certify(ten, 10, record={"passed": False}, risk=0.0)
    choice = ten.choose(Query(most_risk=0.3))
    assert (choice.blueprint, choice.reason) == ("BP003", "")
    assert choice.asset is not None


def test_a_choice_of_nothing_safe_is_the_identity_and_says_so(ten: Library):
    choice = ten.choose(Query(interface="feature-8", most_parameters=0))
    assert (choice.blueprint, choice.asset) == (IDENTITY, None)
    assert "nothing in the library" in choice.reason


class SlowClock(FakeClock):
    """Every look at it takes a second."""

    def monotonic(self) -> float:
        self.advance(1.0)
        return super().monotonic()


def test_a_choice_that_comes_late_is_the_identity_and_says_so(tmp_path: Path):
    library = Library(tmp_path, clock=SlowClock())
    certify(library, 3)
    choice = library.choose(Query(), timeout_s=0.5)
    assert choice.blueprint == IDENTITY
    assert "within 0.5 s" in choice.reason
    assert library.choose(Query(), timeout_s=60).blueprint == "BP003"
    library.close()


def test_a_failing_disk_makes_the_choice_the_identity(
    ten: Library, monkeypatch: pytest.MonkeyPatch
):
    def no_disk(_work: object) -> object:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(ten._shelves.database, "read", no_disk)
    reasons = [ten.choose(Query()).reason for _ in range(4)]
    assert reasons[0] == "disk I/O error"
    assert "urza" in reasons[3]
