"""Where there are fewer training slots than candidates the others wait in GERMINATED."""

import copy
from contextlib import closing
from pathlib import Path

import pytest
import torch

from esper_async.kasmina.operations import operate
from esper_async.kasmina.planting import CommandRefusedError
from esper_async.kasmina.stage import Stage
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.outcome import Outcome
from tests.growth_hosts import differing, make_host, plain_step
from tests.kasmina.plots import Plot
from tests.tolaria.growth_tasks import BLUEPRINTS, shuffled
from tests.tolaria.test_engine import Script, options, weights
from tests.tolaria.test_requests import Killed, Mortal, told

FIVE = ("BP021", "BP014", "BP003", "BP001", "BP012")


def stages(plot: Plot) -> list[str]:
    return [seed.stage.name for seed in plot.executor.seeds.values()]


def waiting(plot: Plot) -> list[str]:
    return [seed.id for seed in plot.executor.in_stage(Stage.GERMINATED)]


def test_by_default_every_candidate_trains_at_once_and_no_slot_is_spoken_of() -> None:
    plot = Plot("mlp")
    plot.plant(*FIVE)
    assert stages(plot) == ["TRAINING"] * 5
    assert all(gate.name != "slot" for seed in plot.executor.seeds.values() for gate in seed.gates)


def test_candidates_beyond_the_slots_wait_and_begin_as_others_have_trained() -> None:
    plot = Plot("mlp", max_training=2)
    seeds = plot.plant(*FIVE)
    assert stages(plot) == ["TRAINING"] * 2 + ["GERMINATED"] * 3
    found = []
    for number in range(2):
        plot.epoch(4 * number)
        found.append([seed.id for seed in seeds if seed.stage_steps == 0])
        assert sum(not seed.stood_down for seed in seeds if seed.stage is Stage.TRAINING) <= 2
    assert found == [["s3", "s4", "s5"], ["s5"]]
    gate = seeds[2].gates[-1]
    assert (gate.name, gate.passed, gate.numbers) == ("slot", True, {"training": 2, "slots": 2})
    assert [seed.shadow_passes for seed in seeds] == [4, 4, 4, 4, 0]


def test_a_tournament_is_judged_on_one_host_once_its_last_member_has_trained() -> None:
    plot = Plot("mlp", max_training=2)
    seeds = plot.plant(*FIVE)
    for number in range(3):
        assert all(seed.clean_contribution is None for seed in seeds)
        plot.epoch(4 * number)
    assert all(seed.clean_contribution is not None for seed in seeds)
    assert sorted(stages(plot)) == ["BLENDING"] + ["CULLED"] * 4


def test_a_second_tournament_trains_while_the_first_waits_for_its_judgement() -> None:
    plot = Plot("mlp", max_training=1, window_boundaries=50, g4_margin=-1e9)
    plot.plant("BP021")
    plot.until("BLENDING")
    (second,) = plot.plant("BP014")
    (third,) = plot.plant("BP003")
    assert (second.stage, third.stage) == (Stage.TRAINING, Stage.GERMINATED)
    plot.epoch()
    assert second.stood_down
    assert third.stage is Stage.TRAINING


def test_the_host_notices_neither_those_that_wait_nor_those_that_stand_down() -> None:
    plot = Plot("mlp", max_training=1, dwell_steps=3)
    alone = make_host("mlp")
    optimizer = torch.optim.AdamW(alone.parameters(), lr=1e-2)
    plot.plant("BP021", "BP014", "BP003")
    state = torch.get_rng_state()
    for index in range(6):
        plot.step(index)
        if index % 3 == 2:
            plot.boundary()
    torch.set_rng_state(state)
    for index in range(6):
        plain_step(alone, optimizer, plot.batches[index % len(plot.batches)])
    assert stages(plot) == ["TRAINING"] * 3
    assert differing(dict(alone.state_dict()), dict(plot.model.state_dict())) == []


def test_starting_training_takes_a_free_slot_at_once_or_the_next_one() -> None:
    plot = Plot("mlp", max_training=2, dwell_steps=100)
    seeds = plot.plant(*FIVE)
    operate(plot.executor, "s5", "START_TRAINING")
    assert seeds[4].stage is Stage.GERMINATED  # no slot is free: the gate decides
    plot.executor.cull("s1", "asked for")
    operate(plot.executor, "s4", "START_TRAINING")
    assert seeds[3].stage is Stage.TRAINING
    plot.executor.cull("s2", "asked for")
    plot.epoch()
    assert [seeds[4].stage, seeds[2].stage] == [Stage.TRAINING, Stage.GERMINATED]
    assert not seeds[4].hurried  # its dwell is its own


def test_a_germination_is_cancelled_only_before_it_trains_and_leaves_no_trace() -> None:
    plot = Plot("mlp", max_training=2)
    before = dict(copy.deepcopy(plot.model.state_dict()))
    seeds = plot.plant(*FIVE)
    with pytest.raises(CommandRefusedError, match="it is TRAINING, and that takes GERMINATED"):
        operate(plot.executor, "s1", "CANCEL")
    operate(plot.executor, "s4", "CANCEL")
    assert (seeds[3].stage, seeds[3].ended) == (Stage.CULLED, True)
    assert waiting(plot) == ["s3", "s5"]
    assert differing(before, dict(plot.model.state_dict())) == []
    plot.epoch()
    plot.epoch()
    assert plot.executor.in_stage(Stage.BLENDING)  # nobody waits for the one that was cancelled


def test_grafting_at_once_hurries_those_that_wait_but_judges_nobody_untrained() -> None:
    plot = Plot("mlp", max_training=1, dwell_steps=1000)
    seeds = plot.plant("BP021", "BP014")
    plot.step(0)
    operate(plot.executor, "s1", "START_GRAFTING")
    plot.boundary()
    assert (seeds[0].stood_down, seeds[1].stage) == (True, Stage.TRAINING)
    plot.step(1)
    operate(plot.executor, "s1", "START_GRAFTING")
    plot.boundary()
    assert sorted(stages(plot)) == ["BLENDING", "CULLED"]


def test_waiting_seeds_count_as_candidates_and_go_when_the_run_ends() -> None:
    plot = Plot("mlp", max_training=1, max_candidates=3)
    plot.plant("BP021", "BP014")
    with pytest.raises(CommandRefusedError, match="between 1 and 1 can be planted now"):
        plot.plant("BP003", "BP001")
    plot.executor.finish(plot.measure())
    assert stages(plot) == ["CULLED", "CULLED"]


@pytest.mark.parametrize("epochs", [0, 1, 2])
def test_seeds_that_wait_or_stand_down_survive_a_save(epochs: int) -> None:
    plot = Plot("mlp", max_training=2)
    plot.plant(*FIVE)
    for number in range(epochs):
        plot.epoch(4 * number)
    if epochs < 2:
        operate(plot.executor, "s5", "START_TRAINING")
    saved = copy.deepcopy(plot.executor.state_dict())
    other = Plot("mlp", max_training=2)
    other.executor.load_state_dict(copy.deepcopy(saved))
    assert differing(saved, other.executor.state_dict()) == []
    for each in (plot, other):
        torch.manual_seed(5)
        for number in range(epochs, 5):
            each.epoch(4 * number)
    assert stages(plot) == stages(other)
    assert differing(plot.executor.state_dict(), other.executor.state_dict()) == []


def grown(folder: Path, control: Script) -> Outcome:
    settings = options(checkpoint_every=3, growth={"max_training": 1})
    engine = Engine(shuffled(), settings, folder=folder, control=control, blueprints=BLUEPRINTS)
    with closing(engine):
        return engine.run()


def test_a_run_killed_while_seeds_wait_ends_bitwise_as_one_that_was_not(tmp_path: Path) -> None:
    whole = grown(tmp_path / "whole", Script())
    begun = [
        t["boundary"]
        for t in told(tmp_path / "whole", "transition")
        if t["to_stage"] == "TRAINING" and t["gate"] is not None
    ]
    assert begun, "no seed had to wait"
    with pytest.raises(Killed):
        grown(tmp_path / "cut", Mortal(dies_at=4 * begun[0] - 2))
    rest = grown(tmp_path / "cut", Script())
    assert rest.history == whole.history
    assert differing(weights(rest), weights(whole)) == []
