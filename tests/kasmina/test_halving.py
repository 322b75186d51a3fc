"""Successive halving: the worse half of a tournament is dropped while the others train on."""

import copy
from collections.abc import Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from esper_async.kasmina.operations import operate
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.rounds import Round, rounds
from esper_async.kasmina.seed import Candidate, Seed
from esper_async.kasmina.stage import Stage
from esper_async.kasmina.tournament import rank
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.outcome import Outcome
from tests.growth_hosts import differing, make_host, plain_step
from tests.kasmina.plots import Plot
from tests.tolaria.growth_tasks import BLUEPRINTS, shuffled
from tests.tolaria.test_engine import Script, options, weights
from tests.tolaria.test_requests import Killed, Mortal, told

EIGHT = ("BP021", "BP014", "BP003", "BP001", "BP012", "BP002", "BP009", "BP011")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The tensors are small: on a busy machine a second thread is only waited for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def halving(**changes: Any) -> Plot:
    """Return a plot whose tournaments of eight have rounds that end after 4, 12 and 28 steps."""
    settings = {"tournament": "halving", "dwell_steps": 28, "first_round_steps": 1}
    return Plot("mlp", **{**settings, **changes})


def plain(**changes: Any) -> Plot:
    """Return the same with a host over which candidates can be mapped."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Linear(8, 3))
    return halving(model=model, sites={"here": "0"}, **changes)


def left(plot: Plot) -> list[str]:
    """Return who is still in the tournament."""
    return [seed.id for seed in plot.executor.in_stage(Stage.GERMINATED, Stage.TRAINING)]


def ids(seeds: list[Seed]) -> list[str]:
    return [seed.id for seed in seeds]


# -- when a round ends -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (1, [(210, 1)]),
        (2, [(210, 1)]),
        (3, [(84, 2), (210, 1)]),
        (4, [(70, 2), (210, 1)]),
        (8, [(30, 4), (90, 2), (210, 1)]),
    ],
)
def test_every_round_gets_the_same_share_of_all_passes(
    count: int, expected: list[tuple[int, int]]
) -> None:
    halves = GrowthOptions(tournament="halving", dwell_steps=210, first_round_steps=1)
    assert rounds(count, halves) == [Round(*each) for each in expected]
    assert rounds(count, GrowthOptions(dwell_steps=210)) == [Round(210, 1)]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [(60, 4), (107, 2), (200, 1)]),
        ({"shadow_every": 1}, [(40, 4), (94, 2), (200, 1)]),
        ({"warmup_steps": 50}, [(90, 4), (127, 2), (200, 1)]),
        ({"first_round_steps": 80}, [(80, 4), (120, 2), (200, 1)]),
        ({"first_round_steps": 10}, [(29, 4), (86, 2), (200, 1)]),
        ({"shadow_every": 9}, [(200, 1)]),
    ],
)
def test_the_first_round_leaves_slow_kernels_their_time(
    changes: dict[str, Any], expected: list[tuple[int, int]]
) -> None:
    """Rates have warmed up, and twenty shadow passes after that were done."""
    found = rounds(8, GrowthOptions(tournament="halving", **changes))
    assert found == [Round(*each) for each in expected]


@given(count=st.integers(1, 100), dwell=st.integers(1, 5000), first=st.integers(1, 300))
def test_fields_halve_from_round_to_round_and_the_last_ends_with_the_dwell(
    count: int, dwell: int, first: int
) -> None:
    growth = GrowthOptions(tournament="halving", dwell_steps=dwell, first_round_steps=first)
    found = rounds(count, growth)
    if first >= dwell:
        assert found == [Round(dwell, 1)]
        return
    fields = [count, *(each.places for each in found)]
    assert all(after == -(-before // 2) for before, after in pairwise(fields))
    assert found[-1] == Round(dwell, 1)
    assert [each.last for each in found] == [False] * (len(found) - 1) + [True]
    ends = [0, *(each.steps for each in found)]
    assert ends == sorted(ends)
    passes = [
        field * (end - start) for field, start, end in zip(fields, ends, ends[1:], strict=False)
    ]
    assert found[0].steps >= first
    assert all(abs(each - passes[-1]) <= 2 * count for each in passes[1:])  # steps are whole
    assert passes[0] >= passes[-1] - 2 * count


# -- who is dropped --------------------------------------------------------------------------------


def test_the_worse_half_goes_at_the_end_of_each_round_and_the_best_is_blended() -> None:
    plot = halving()
    seeds = plot.plant(*EIGHT)
    counts = []
    for epoch in range(7):
        plot.epoch(4 * epoch)
        counts.append(len(left(plot)))
    assert counts == [4, 4, 2, 2, 2, 2, 0]
    (winner,) = plot.executor.in_stage(Stage.BLENDING)
    passes = sorted(seed.shadow_passes for seed in seeds)
    assert passes == [4] * 4 + [12] * 2 + [28] * 2
    assert winner.shadow_passes == 28


def test_what_ranks_candidates_at_the_end_of_a_round_is_what_ranks_them_at_the_end() -> None:
    plot = halving(dwell_steps=10**6)
    seeds = plot.plant(*EIGHT)
    for index in range(4):
        plot.step(index)
    for seed in seeds:
        operate(plot.executor, seed.id, "EVALUATE")
    plot.boundary()
    expected = ids(rank(seeds))
    plot.executor.options = halving().executor.options
    plot.boundary()
    assert left(plot) == sorted(expected[:4])


def test_the_history_shows_who_was_dropped_when_and_by_which_numbers() -> None:
    plot = halving()
    seeds = plot.plant(*EIGHT)
    plot.epoch()
    places = []
    for seed in seeds:
        gate = seed.gates[-1]
        dropped = seed.stage is Stage.CULLED
        assert (gate.name, gate.passed, gate.boundary) == (
            ("G2", False, 1) if dropped else ("round", True, 1)
        )
        assert seed.clean_contribution is not None
        assert gate.numbers["mean"] == seed.clean_contribution.mean
        assert (gate.numbers["steps"], gate.numbers["of"], gate.numbers["places"]) == (4, 8, 4)
        place = int(gate.numbers["place"] or 0)
        what = "is dropped" if dropped else "goes on"
        assert gate.reason == f"place {place} of 8 after 4 steps: {what}"
        assert dropped == (place > 4)
        places.append(place)
    assert sorted(places) == list(range(1, 9))
    assert [seed.gates[-1].numbers["parameters"] for seed in seeds] == [
        seed.parameter_count for seed in seeds
    ]


def test_a_dropped_candidate_frees_its_memory_at_once_and_later_passes_its_reset() -> None:
    plot = halving()
    seeds = plot.plant(*EIGHT)
    plot.epoch()
    dropped = [seed for seed in seeds if seed.ended]
    assert len(dropped) == 4
    for seed in dropped:
        assert (seed.body, seed.optimizer, seed.stream, seed.buffers) == (None, None, None, {})
        assert seed not in plot.executor.with_optimizer()
    plot.epoch(4)
    plot.epoch(8)
    assert [seed.stage for seed in dropped] == [Stage.DORMANT] * 4
    assert all((seed.gates[-1].name, seed.gates[-1].passed) == ("G5", True) for seed in dropped)


def test_a_contribution_that_is_not_finite_is_dropped_first() -> None:
    plot = halving()
    seeds = plot.plant("BP003", "BP021", "BP014", "BP009")
    for index in range(10):
        plot.step(index)
    with torch.no_grad():
        for parameter in seeds[0].kernel.parameters():
            parameter.fill_(float("nan"))
    plot.boundary()
    assert seeds[0].stage is Stage.CULLED
    assert seeds[0].gates[-1].numbers["place"] == 4


def test_one_that_would_do_harm_now_may_still_go_on_and_is_asked_at_the_end() -> None:
    """A kernel that starts slowly may look harmful early: gates judge who is left, and when."""
    plot = halving(g2_margin=1e9)
    seeds = plot.plant(*EIGHT)
    plot.epoch()
    assert len(left(plot)) == 4
    assert all(gate.name != "G1" for seed in seeds for gate in seed.gates)
    for epoch in range(1, 7):
        plot.epoch(4 * epoch)
    assert left(plot) == []
    assert plot.executor.trial is None
    reasons = [seed.gates[-1].reason for seed in seeds if seed.ended_boundary == 7]
    assert reasons == ["would harm when switched on"] * 2


def test_where_a_boundary_is_longer_than_rounds_those_that_are_over_count_at_once() -> None:
    plot = halving()
    plot.plant(*EIGHT)
    plot.epoch(steps=20)  # past the second round
    assert len(left(plot)) == 2
    whole = halving()
    whole.plant(*EIGHT)
    whole.epoch(steps=28)  # past the last one: there is nothing to save
    assert left(whole) == []
    assert len(whole.executor.in_stage(Stage.BLENDING)) == 1


# -- what else may happen to a tournament ----------------------------------------------------------


def test_who_was_culled_by_an_operator_is_one_less_to_drop() -> None:
    plot = halving()
    plot.plant(*EIGHT)
    for seed_id in ("s2", "s3", "s4"):
        plot.executor.cull(seed_id, "asked for")
    plot.epoch()
    assert len(left(plot)) == 4
    for seed_id in left(plot)[:2]:
        plot.executor.cull(seed_id, "asked for")
    plot.epoch(4)
    plot.epoch(8)
    assert len(left(plot)) == 2  # as many as the second round leaves: nobody goes


def test_a_round_waits_for_one_that_is_paused() -> None:
    plot = halving()
    seeds = plot.plant(*EIGHT)
    plot.executor.hold(seeds[0], paused=True)
    plot.epoch()
    assert len(left(plot)) == 8
    plot.executor.hold(seeds[0], paused=False)
    plot.epoch(4)
    assert len(left(plot)) == 4


def test_grafting_at_once_ends_the_tournament_whatever_round_it_is_in() -> None:
    plot = halving()
    plot.plant(*EIGHT)
    plot.step(0)
    operate(plot.executor, "s1", "START_GRAFTING")
    plot.boundary()
    assert left(plot) == []
    assert plot.executor.trial is not None


def test_rounds_end_while_another_seed_is_on_trial_but_the_last_one_waits() -> None:
    plot = halving(sites={"here": "body", "early": "body.2"}, window_boundaries=50, g4_margin=-1e9)
    plot.executor.germinate([Candidate("here", "BP021")])
    for epoch in range(7):
        plot.epoch(4 * epoch)
    assert plot.executor.trial is not None
    plot.executor.germinate([Candidate("early", name) for name in EIGHT])
    counts = []
    for epoch in range(8):
        plot.epoch(4 * epoch)
        counts.append(len(left(plot)))
    assert counts == [4, 4, 2, 2, 2, 2, 2, 2]


def test_nobody_is_dropped_by_what_was_measured_in_a_network_that_is_gone() -> None:
    plot = halving(sites={"here": "body", "early": "body.2"}, g4_margin=1e9, window_boundaries=2)
    plot.executor.germinate([Candidate("here", "PL002")])
    for epoch in range(8):
        plot.epoch(4 * epoch)
    assert plot.executor.trial is not None
    plot.executor.germinate([Candidate("early", name) for name in EIGHT])
    while plot.executor.trial is not None:
        assert len(left(plot)) >= 4
        before = len(left(plot))
        plot.epoch()
    assert len(left(plot)) == before


@pytest.mark.parametrize("slots", [1, 3])
def test_with_fewer_slots_all_have_their_turn_in_each_round(slots: int) -> None:
    plot = halving(max_training=slots)
    seeds = plot.plant(*EIGHT)
    for epoch in range(60):
        training = [seed for seed in seeds if seed.stage is Stage.TRAINING]
        assert sum(not seed.stood_down for seed in training) <= slots
        plot.epoch(4 * epoch)
        if plot.executor.trial is not None:
            break
    (winner,) = plot.executor.in_stage(Stage.BLENDING)
    assert winner.shadow_passes >= 28
    assert all(seed.stage_steps in (0, seed.shadow_passes) for seed in seeds)
    if slots == 1:
        assert sorted(seed.shadow_passes for seed in seeds) == [4] * 4 + [12] * 2 + [28] * 2


# -- the host, and the same again ------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["sequential", "batched"])
def test_the_host_is_bitwise_the_same_throughout(mode: str) -> None:
    plot, alone = plain(shadow_mode=mode), plain()
    plot.plant(*EIGHT)
    for each in (plot, alone):
        torch.manual_seed(3)
        for epoch in range(6):
            each.epoch(4 * epoch)
    assert len(left(plot)) == 2
    assert differing(alone.model.state_dict(), plot.model.state_dict()) == []
    assert differing(alone.optimizer.state_dict(), plot.optimizer.state_dict()) == []


def test_a_host_with_batch_norm_and_dropout_is_the_same_too() -> None:
    plot = halving()
    alone = make_host("mlp")
    optimizer = torch.optim.AdamW(alone.parameters(), lr=1e-2)
    plot.plant(*EIGHT)
    torch.manual_seed(3)
    for epoch in range(6):
        plot.epoch(4 * epoch)
    torch.manual_seed(3)
    for index in range(24):
        plain_step(alone, optimizer, plot.batches[index % len(plot.batches)])
    assert differing(alone.state_dict(), plot.model.state_dict()) == []


@pytest.mark.parametrize("mode", ["sequential", "batched"])
def test_a_candidate_learns_the_same_whether_others_were_dropped_or_not(mode: str) -> None:
    found = []
    for kind in ("halving", "full"):
        plot = plain(shadow_mode=mode, tournament=kind)
        seeds = plot.plant(*EIGHT)
        for epoch in range(6):
            plot.epoch(4 * epoch)
        found.append({seed.id: seed for seed in seeds if not seed.ended})
    few, all_of_them = found
    assert len(few) == 2
    for name, seed in few.items():
        for one, other in zip(
            seed.graft.parameters(), all_of_them[name].graft.parameters(), strict=True
        ):
            if mode == "sequential":
                assert torch.equal(one, other)
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mode", ["sequential", "batched"])
@pytest.mark.parametrize("slots", ["auto", 3])
@pytest.mark.parametrize("epochs", [0, 1, 2, 4])
def test_a_saved_tournament_goes_on_bitwise_in_every_round(
    epochs: int, slots: Any, mode: str
) -> None:
    plot = plain(shadow_mode=mode, max_training=slots)
    plot.plant(*EIGHT)
    for number in range(epochs):
        plot.epoch(4 * number)
    saved = copy.deepcopy(plot.executor.state_dict())
    other = plain(shadow_mode=mode, max_training=slots)
    other.executor.load_state_dict(copy.deepcopy(saved))
    assert differing(saved, other.executor.state_dict()) == []
    for each in (plot, other):
        each.moves.clear()
        for number in range(epochs, 9):
            each.epoch(4 * number)
    assert plot.moves == other.moves
    assert any(target == "CULLED" for _, _, target in plot.moves)
    assert differing(plot.executor.state_dict(), other.executor.state_dict()) == []


def grown(folder: Path, control: Script) -> Outcome:
    growth = {"tournament": "halving", "dwell_steps": 12, "first_round_steps": 1}
    engine = Engine(
        shuffled(),
        options(checkpoint_every=3, growth=growth),
        folder=folder,
        control=control,
        blueprints=[*BLUEPRINTS, "BP003", "BP002"],
    )
    with closing(engine):
        return engine.run()


def test_a_run_killed_between_two_rounds_ends_bitwise_as_one_that_was_not(tmp_path: Path) -> None:
    whole = grown(tmp_path / "whole", Script())
    dropped = [
        record
        for record in told(tmp_path / "whole", "transition")
        if record["gate"] is not None and "place" in record["gate"]["numbers"]
    ]
    assert {record["to_stage"] for record in dropped} == {"CULLED"}
    assert all(record["gate"]["reason"].endswith("is dropped") for record in dropped)
    with pytest.raises(Killed):
        grown(tmp_path / "cut", Mortal(dies_at=4 * dropped[0]["boundary"] + 2))
    rest = grown(tmp_path / "cut", Script())
    assert rest.history == whole.history
    assert differing(weights(rest), weights(whole)) == []


# -- what it costs ---------------------------------------------------------------------------------


def test_measuring_candidates_at_the_end_of_a_round_is_billed() -> None:
    plot = halving()
    account = plot.executor.compute
    plot.plant(*EIGHT)
    for index in range(4):
        plot.step(index)
    assert account.judging_macs == 0.0
    plot.boundary()
    samples = sum(len(targets) for _, targets in plot.decision)
    host = 6 * 16 + 16 * 8 + 8 * 3
    assert account.judging_macs >= 8 * samples * host
    assert account.judging_macs < account.shadow_macs
    billed = account.judging_macs
    plot.boundary()  # nobody is measured between rounds
    assert account.judging_macs == billed


@pytest.mark.parametrize("kind", ["conv2d", "conv1d", "mlp", "attention"])
def test_counting_what_a_measurement_costs_changes_no_bit_of_it(kind: Any) -> None:
    plot = Plot(kind, dwell_steps=10**6)
    seeds = plot.plant(*("BP009", "BP003", "BP014"))
    for index in range(3):
        plot.step(index)
    found = []
    for _ in range(2):  # counted the first time only
        for seed in seeds:
            operate(plot.executor, seed.id, "EVALUATE")
        results = plot.measure()
        found.append({name: results[name].losses for name in results})
    assert differing(*found) == []


def test_a_pass_is_counted_whose_modules_hand_on_what_has_no_history() -> None:
    """torch's tracker of modules asks a tensor that needs gradients for its history."""
    parameter = nn.Parameter(torch.ones(4, 4))
    hands_on = nn.Identity()

    def variant(batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        return batch[0] @ hands_on(parameter.unbind()[0].view(4, 1)), batch[1]

    account = Plot("mlp").executor.compute
    with torch.no_grad():
        account.judging("s1", variant)((torch.ones(3, 4), torch.zeros(3)))
    assert account.judging_macs == 3 * 4
