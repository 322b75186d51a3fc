"""Selection counts what it hands out, and falls back to the simplest when it cannot."""

import sqlite3
from pathlib import Path

import pytest

from esper_async.karn.catalogue import Catalogue, Query
from esper_async.karn.errors import QuarantinedError
from esper_async.karn.metrics import KarnMetrics
from esper_async.karn.record import Interface
from esper_async.karn.selection import Selector, breaker_of_the_disk
from esper_async.karn.tallies import Tallies
from esper_async.runtime.breaker import BreakerOpen
from esper_async.runtime.breakers import Breakers
from esper_async.runtime.clock import FakeClock
from esper_async.runtime.metrics import Registry

LINE = Query(interface=Interface("spatial", (8, 1, 40)))


class Desk:
    """A selector on a clock that stands still, with its disk at hand."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = FakeClock()
        self.registry = Registry()
        self.tallies = Tallies(path)
        metrics = KarnMetrics(self.registry)
        breakers = Breakers("karn", registry=self.registry, clock=self.clock)
        disk = breaker_of_the_disk(breakers, metrics)
        self.selector = Selector(Catalogue(), self.tallies, metrics, self.clock, disk)

    def break_disk(self) -> None:
        self.path.rename(self.path.with_suffix(".away"))
        self.path.mkdir()

    def mend_disk(self) -> None:
        self.path.rmdir()
        self.path.with_suffix(".away").rename(self.path)

    def exposed(self, name: str) -> float | None:
        return self.registry.collectors.get_sample_value(name)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "tallies.sqlite")


def test_a_healthy_selector_offers_the_whole_answer(desk: Desk) -> None:
    selection = desk.selector.select(LINE)
    assert selection.conservative is None
    assert len(selection.records) > 14
    assert desk.exposed("esper_karn_template_selection_seconds_count") == 1


def test_a_request_is_counted_on_disk_and_by_tier(desk: Desk) -> None:
    for _ in range(3):
        assert desk.selector.request("BP009").name == "residual_block"
    assert Tallies(desk.path).read()["BP009"].requests == 3
    sample = desk.registry.collectors.get_sample_value(
        "esper_karn_blueprint_requests_total", {"tier": "production"}
    )
    assert sample == 3


def test_a_refused_request_is_not_counted(desk: Desk) -> None:
    with pytest.raises(QuarantinedError):
        desk.selector.request("BP047")
    assert desk.tallies.read() == {}


def test_a_disk_that_fails_cuts_the_offer_back_but_stops_nobody(desk: Desk) -> None:
    desk.break_disk()
    for _ in range(3):
        assert desk.selector.request("BP009").id == "BP009"
    selection = desk.selector.select(LINE)
    assert selection.conservative == "the tallies' breaker is open"
    assert {record.id for record in selection.records} <= {f"BP{n:03}" for n in range(1, 11)}
    assert desk.exposed("esper_karn_conservative_mode") == 1


def test_an_outcome_that_cannot_be_written_is_not_swallowed(desk: Desk) -> None:
    desk.break_disk()
    for _ in range(3):
        with pytest.raises(sqlite3.Error):
            desk.selector.count_outcome("r1", "BP009", "success")
    with pytest.raises(BreakerOpen):
        desk.selector.count_outcome("r1", "BP009", "success")


def test_the_offer_is_whole_again_once_the_disk_is(desk: Desk) -> None:
    desk.break_disk()
    for _ in range(3):
        desk.selector.request("BP009")
    desk.mend_disk()
    assert desk.selector.select(LINE).conservative is not None
    desk.clock.advance(31)
    assert desk.selector.select(LINE).conservative is None
    assert desk.exposed("esper_karn_conservative_mode") == 0


def test_a_disk_that_stays_broken_keeps_the_offer_small(desk: Desk) -> None:
    desk.break_disk()
    for _ in range(3):
        desk.selector.request("BP009")
    desk.clock.advance(31)
    assert desk.selector.select(LINE).conservative is not None


def test_a_report_counts_once_however_often_it_comes(desk: Desk) -> None:
    assert desk.selector.count_outcome("r1", "BP009", "success")
    assert not desk.selector.count_outcome("r1", "BP009", "success")
    assert desk.selector.count_outcome("r2", "BP009", "regression")
    reopened = Tallies(desk.path).read()["BP009"].outcomes
    assert reopened == {"success": 1, "neutral": 0, "regression": 1, "aborted": 0}


def test_an_outcome_of_no_known_kind_is_refused(desk: Desk) -> None:
    with pytest.raises(ValueError, match="'splendid' is none of success"):
        desk.tallies.count_outcome("r1", "BP009", "splendid")  # type: ignore[arg-type]
