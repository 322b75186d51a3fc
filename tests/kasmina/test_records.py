"""What is kept of seeds that ended: the newest records and no tensor, however many there were."""

import copy
import gc
import io
import sys
import tracemalloc
from typing import Any

import pytest
import torch

from esper_async.kasmina.planting import CommandRefusedError
from esper_async.kasmina.resting import MOST_RECORDS
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.seed_state import saved_seed
from esper_async.kasmina.stage import Stage
from tests.growth_hosts import differing
from tests.kasmina.plots import Plot


def plot_with(records: int, **options: Any) -> Plot:
    plot = Plot("mlp", embargo_boundaries=1, dwell_steps=1000, **options)
    plot.executor.most_records = records
    return plot


def cycle(plot: Plot, *blueprints: str) -> None:
    """Plant seeds, train them for a step, remove them, and pass the boundary of their embargo."""
    planted = plot.plant(*(blueprints or ("BP014",)))
    plot.step(0)
    for seed in planted:
        plot.executor.cull(seed.id, "a test")
    plot.boundary()


def size_bytes(plot: Plot) -> int:
    content = io.BytesIO()
    torch.save(plot.executor.state_dict(), content)
    return content.tell()


def tensors() -> int:
    gc.collect()
    kinds = (torch.Tensor, torch.nn.Parameter)
    return sum(1 for thing in gc.get_objects() if type(thing) in kinds)


def test_the_newest_records_stay_and_the_totals_count_them_all() -> None:
    plot = plot_with(3)
    for _ in range(5):
        cycle(plot)
    assert list(plot.executor.seeds) == ["s3", "s4", "s5"]
    executor = plot.executor
    assert (executor.planted, executor.tournaments, executor.removed) == (5, 5, 5)
    with pytest.raises(CommandRefusedError, match="s1 ended long ago; its record was dropped"):
        plot.executor.cull("s1", "a test")


def test_numbers_go_on_and_their_weights_are_what_they_would_be_with_every_record() -> None:
    few, all_ = plot_with(2), plot_with(1000)
    for plot in (few, all_):
        for _ in range(4):
            cycle(plot, "BP014", "BP021")
    resumed = plot_with(2)
    resumed.executor.load_state_dict(copy.deepcopy(few.executor.state_dict()))
    planted = [plot.plant("BP021")[0] for plot in (few, all_, resumed)]
    assert [(seed.id, seed.tournament) for seed in planted] == [("s9", "t5")] * 3
    for seed in planted[:2]:
        assert differing(dict(seed.graft.state_dict()), dict(planted[2].graft.state_dict())) == []
        assert differing(seed.stream.state, planted[2].stream.state) == []  # type: ignore[union-attr]
    few.step(1)
    resumed.model.load_state_dict(few.model.state_dict())
    again = plot_with(2)
    again.executor.load_state_dict(copy.deepcopy(few.executor.state_dict()))
    assert differing(few.executor.state_dict(), again.executor.state_dict()) == []


def test_a_tournament_is_kept_whole_while_one_of_its_seeds_lives() -> None:
    """Its field report names them all."""
    sites = {"here": "body", "early": "body.2"}
    plot = plot_with(1, sites=sites)
    plot.plant("BP014", "BP021")
    plot.executor.cull("s1", "a test")
    for _ in range(3):
        (other,) = plot.executor.germinate([Candidate("early", "BP014")])
        plot.step(0)
        plot.executor.cull(other.id, "a test")
        plot.boundary()
    assert list(plot.executor.seeds) == ["s1", "s2"]
    plot.executor.cull("s2", "a test")
    plot.boundary()
    assert list(plot.executor.seeds) == ["s1", "s2"]  # of one tournament: the newest to end
    cycle(plot)
    assert list(plot.executor.seeds) == ["s6"]


def test_a_seed_that_rests_is_not_dropped() -> None:
    plot = plot_with(0, sites={"here": "body", "early": "body.2"})
    plot.plant("BP014")
    plot.executor.cull("s1", "a test")
    assert list(plot.executor.seeds) == ["s1"]
    assert plot.executor.resting_sites() == {"here"}
    plot.step(0)
    plot.boundary()
    assert list(plot.executor.seeds) == []


def test_kept_seeds_stand_in_the_order_in_which_the_network_runs_them() -> None:
    """Not in that of their numbers: a tournament may be held back while a later one is decided."""
    plot = Plot("mlp", g4_margin=-1e9, max_seeds=3)
    (first,) = plot.plant("BP014")
    plot.executor.hold(first, paused=True)
    plot.plant("BP021")
    plot.until("FOSSILIZED")
    plot.executor.hold(first, paused=False)
    for start in range(0, 40, 4):
        plot.epoch(start)
    assert [seed.stage for seed in plot.executor.seeds.values()] == [Stage.FOSSILIZED] * 2
    assert [seed.id for seed in plot.executor.kept] == ["s2", "s1"]


def test_a_living_seed_of_the_format_before_is_named_as_it_was() -> None:
    """It said nothing of names: they were `esper_` and the seed's."""
    plot = plot_with(1000)
    (planted,) = plot.plant("BP014")
    state = copy.deepcopy(plot.executor.state_dict())
    assert state["seeds"][0]["plain"].pop("attribute") == planted.attribute == "esper_s1"
    resumed = plot_with(1000)
    resumed.executor.load_state_dict(state)
    assert resumed.executor.seeds["s1"].attribute == "esper_s1"


def cycles(plot: Plot, count: int) -> None:
    for _ in range(count):
        cycle(plot)
        plot.moves.clear()  # the test's own
    gc.collect()


def test_a_hundred_germinations_and_culls_leave_memory_and_checkpoints_flat() -> None:
    plot = plot_with(8)
    tracemalloc.start()
    try:
        cycles(plot, 20)
        held, saved, (used, _) = tensors(), size_bytes(plot), tracemalloc.get_traced_memory()
        cycles(plot, 80)
        end, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert tensors() == held
    assert size_bytes(plot) - saved < 500
    assert end - used < 20_000


@pytest.mark.full
@pytest.mark.timeout(900)
def test_a_thousand_germinations_and_culls_leave_memory_and_checkpoints_flat() -> None:
    plot = plot_with(MOST_RECORDS)
    cycles(plot, MOST_RECORDS + 10)
    held, saved, blocks = tensors(), size_bytes(plot), sys.getallocatedblocks()
    cycles(plot, 1_000)
    assert tensors() == held
    assert size_bytes(plot) - saved < 5_000  # numbers of four digits
    assert sys.getallocatedblocks() - blocks < 2_000
    assert len(plot.executor.seeds) == MOST_RECORDS


def test_a_record_is_made_once_and_comes_back_as_it_was() -> None:
    """As text, or as the mapping that checkpoints of the format before have."""
    plot = plot_with(1000)
    cycle(plot)
    cycle(plot)
    states = [plot.executor.state_dict() for _ in range(2)]
    records = [state["seeds"][0] for state in states]
    assert isinstance(records[0], str)
    assert records[0] is records[1]
    plot.step(0)
    plot.boundary()
    assert plot.executor.state_dict()["seeds"][0] is records[0]
    states[1]["seeds"] = [dict(saved_seed(saved)) for saved in states[1]["seeds"]]
    for state in states:
        resumed = plot_with(1000)
        resumed.executor.load_state_dict(copy.deepcopy(state))
        assert resumed.executor.state_dict()["seeds"] == states[0]["seeds"]
        assert resumed.executor.seeds["s1"].gates == plot.executor.seeds["s1"].gates


def test_what_an_ended_seed_leaves_in_a_checkpoint_is_small() -> None:
    plot = plot_with(1000)
    cycle(plot)
    before = size_bytes(plot)
    for _ in range(50):
        cycle(plot)
    assert (size_bytes(plot) - before) / 50 < 1_500
