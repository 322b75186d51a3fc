"""What may be asked of one seed: each deed does what it says, and refuses where it cannot."""

import copy
import json
from typing import Any

import pytest
import torch

from esper_async.kasmina.operations import VERBS, Tuning, Verb, operate, pause
from esper_async.kasmina.planting import CommandRefusedError
from esper_async.kasmina.ramp import ramp
from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.command import Operate, command_from_json
from tests.growth_hosts import differing, make_host, plain_step
from tests.kasmina.plots import Plot


def on_trial(**options: Any) -> Plot:
    plot = Plot("mlp", **options)
    plot.plant("BP021")
    plot.until("BLENDING")
    return plot


def refused(plot: Plot, verb: Verb, words: str, tuning: Tuning | None = None) -> None:
    before = copy.deepcopy(plot.executor.state_dict())
    with pytest.raises(CommandRefusedError, match=words):
        operate(plot.executor, "s1", verb, tuning)
    assert differing(before, plot.executor.state_dict()) == []


def test_start_grafting_ends_the_dwell_and_leaves_the_verdict_to_the_gate() -> None:
    plot = Plot("mlp", dwell_steps=1000)
    plot.plant("BP021", "BP014")
    plot.epoch()
    assert {seed.stage for seed in plot.executor.seeds.values()} == {Stage.TRAINING}
    operate(plot.executor, "s1", "START_GRAFTING")
    plot.epoch(4)
    stages = [seed.stage for seed in plot.executor.seeds.values()]
    assert sorted(stages) == sorted([Stage.BLENDING, Stage.CULLED])

    strict = Plot("mlp", dwell_steps=1000, g2_margin=1e9)
    strict.plant("BP021")
    strict.epoch()
    operate(strict.executor, "s1", "START_GRAFTING")
    strict.epoch(4)
    assert ("s1", "TRAINING", "CULLED") in strict.moves


def test_stabilize_holds_alpha_until_another_ramp_takes_it_on_from_there() -> None:
    plot = on_trial(ramp_boundaries=2, window_boundaries=5)
    seed = plot.executor.seeds["s1"]
    plot.epoch(0, 3)
    operate(plot.executor, "s1", "STABILIZE")
    held = seed.alpha
    assert 0.0 < held < 1.0
    plot.epoch(4)
    plot.epoch(8)
    assert (seed.alpha, seed.stage) == (held, Stage.BLENDING)

    operate(plot.executor, "s1", "FINE_TUNE", Tuning(ramp="cosine", ramp_boundaries=1))
    found = []
    for index in range(4):
        plot.step(index)
        found.append(seed.alpha)
    due = [held + (1.0 - held) * ramp("cosine", (index + 1) / 4) for index in range(4)]
    assert found == pytest.approx(due)
    assert found[-1] == 1.0


def test_evaluate_measures_a_seed_that_is_not_due_and_judges_it_not() -> None:
    plot = Plot("mlp", dwell_steps=1000)
    first, second = plot.plant("BP021", "BP014")
    operate(plot.executor, "s1", "EVALUATE")
    plot.epoch()
    assert first.clean_contribution is not None
    assert second.clean_contribution is None
    assert (first.stage, first.asked) == (Stage.TRAINING, False)
    measured = first.clean_contribution
    plot.epoch(4)
    assert first.clean_contribution is measured


def test_fossilize_keeps_what_passes_the_last_gate_on_the_window_it_has() -> None:
    plot = on_trial(window_boundaries=50, g4_margin=-1e9)
    while plot.executor.seeds["s1"].stage is not Stage.PROBATIONARY:
        plot.epoch()
    operate(plot.executor, "s1", "FOSSILIZE")
    assert plot.executor.seeds["s1"].stage is Stage.FOSSILIZED
    assert plot.executor.trial is None


def test_fossilize_is_refused_where_the_last_gate_would_not_pass() -> None:
    plot = on_trial(window_boundaries=50, g4_margin=1e9)
    refused(plot, "FOSSILIZE", "cannot fossilize seed s1: it is BLENDING, and that takes PROB")
    while plot.executor.seeds["s1"].stage is not Stage.PROBATIONARY:
        plot.epoch()
    refused(plot, "FOSSILIZE", "seed s1 does not pass G4 yet")


@pytest.mark.parametrize("verb", ["START_TRAINING", "CANCEL"])
def test_what_is_for_the_germinated_is_refused_once_a_seed_trains(verb: Verb) -> None:
    plot = Plot("mlp")
    plot.plant("BP021")
    refused(plot, verb, "it is TRAINING, and that takes GERMINATED")


@pytest.mark.parametrize(
    ("tuning", "words"),
    [
        (None, "nothing to fine-tune"),
        (Tuning(learning_rate=0.0), "a number > 0, not 0.0"),
        (Tuning(learning_rate=float("nan")), "a number > 0, not nan"),
        (Tuning(ramp="steep"), "no ramp 'steep'; known: linear, cosine, sigmoid"),  # type: ignore[arg-type]
        (Tuning(ramp="cosine", ramp_boundaries=0), "at least 1 boundary, not 0"),
        (Tuning(learning_rate=0.1, ramp="cosine"), "cannot change the ramp .* takes BLENDING"),
    ],
)
def test_a_tuning_that_cannot_be_is_refused_whole(tuning: Tuning | None, words: str) -> None:
    plot = Plot("mlp")
    plot.plant("BP021")
    refused(plot, "FINE_TUNE", words, tuning)


def test_a_seed_or_an_operation_that_is_not_known_is_refused_by_name() -> None:
    plot = Plot("mlp")
    with pytest.raises(CommandRefusedError, match="no seed 's1'; this run has: none"):
        operate(plot.executor, "s1", "EVALUATE")
    plot.plant("BP021")
    with pytest.raises(CommandRefusedError, match="no operation 'PRUNE'; known: FOSSILIZE,"):
        operate(plot.executor, "s1", "PRUNE")  # type: ignore[arg-type]


@pytest.mark.parametrize("verb", VERBS)
def test_a_removed_seed_obeys_nothing(verb: Verb) -> None:
    plot = Plot("mlp")
    plot.plant("BP021")
    plot.executor.cull("s1", "asked for")
    refused(plot, verb, "it is CULLED", Tuning(learning_rate=0.1))


def test_a_paused_seed_in_training_stays_where_it_is_and_goes_on_from_there() -> None:
    plot = Plot("mlp", dwell_steps=6)
    (seed,) = plot.plant("BP021")
    plot.step(0)
    pause(plot.executor, "s1")
    before = copy.deepcopy(seed.graft.state_dict())
    alone = make_host("mlp")
    alone.load_state_dict(plot.model.state_dict())
    optimizer = torch.optim.AdamW(alone.parameters(), lr=1e-2)
    optimizer.load_state_dict(copy.deepcopy(plot.optimizer.state_dict()))
    state = torch.get_rng_state()
    for index in range(1, 9):
        plot.step(index)
    plot.boundary()
    torch.set_rng_state(state)
    for index in range(1, 9):
        plain_step(alone, optimizer, plot.batches[index % len(plot.batches)])

    assert differing(before, seed.graft.state_dict()) == []
    assert (seed.stage, seed.stage_steps) == (Stage.TRAINING, 1)
    assert differing(dict(alone.state_dict()), dict(plot.model.state_dict())) == []

    pause(plot.executor, "s1", paused=False)
    plot.epoch(9, 5)
    assert differing(before, seed.graft.state_dict()) != []
    assert seed.stage is Stage.BLENDING


def test_a_paused_seed_on_trial_keeps_weights_and_alpha_and_is_not_judged() -> None:
    plot = on_trial(ramp_boundaries=4, max_windows=1, g4_margin=1e9)
    seed = plot.executor.seeds["s1"]
    plot.step(0)
    pause(plot.executor, "s1")
    before = copy.deepcopy(seed.graft.state_dict())
    host = copy.deepcopy(dict(plot.model.named_parameters()))
    for _ in range(6):
        plot.epoch()
    assert differing(before, seed.graft.state_dict()) == []
    assert differing(host, dict(plot.model.named_parameters())) != []
    assert seed.stage is Stage.BLENDING

    pause(plot.executor, "s1", paused=False)
    plot.until("CULLED", limit=20)


def test_a_paused_seed_that_is_kept_trains_on() -> None:
    plot = on_trial(window_boundaries=50, g4_margin=-1e9)
    seed = plot.executor.seeds["s1"]
    while seed.stage is not Stage.PROBATIONARY:
        plot.epoch()
    pause(plot.executor, "s1")
    operate(plot.executor, "s1", "FOSSILIZE")
    before = copy.deepcopy(seed.graft.state_dict())
    plot.epoch()
    assert differing(before, seed.graft.state_dict()) != []


def test_a_paused_seed_leaves_no_trace_when_it_goes() -> None:
    plot = Plot("mlp")
    plot.plant("BP021")
    pause(plot.executor, "s1")
    plot.executor.cull("s1", "asked for")
    assert plot.branch.paused == set()


@pytest.mark.parametrize("stage", ["TRAINING", "BLENDING"])
def test_what_was_asked_of_a_seed_survives_a_save(stage: str) -> None:
    def make() -> Plot:
        return Plot("mlp", ramp_boundaries=4, dwell_steps=4 if stage == "BLENDING" else 1000)

    plot = make()
    plot.plant("BP021")
    plot.until(stage)
    plot.step(0)
    plot.step(1)
    if stage == "BLENDING":
        operate(plot.executor, "s1", "FINE_TUNE", Tuning(0.5, "sigmoid", 2))
        operate(plot.executor, "s1", "STABILIZE")
    else:
        operate(plot.executor, "s1", "EVALUATE")
        operate(plot.executor, "s1", "START_GRAFTING")
    pause(plot.executor, "s1")
    saved = copy.deepcopy(plot.executor.state_dict())

    other = make()
    other.executor.load_state_dict(copy.deepcopy(saved))
    assert differing(saved, other.executor.state_dict()) == []
    assert other.branch.paused == plot.branch.paused == {"s1"}
    for each in (plot, other):
        torch.manual_seed(5)
        pause(each.executor, "s1", paused=False)
        for index in range(2, 14):
            each.step(index)
        each.boundary()
    assert differing(plot.executor.state_dict(), other.executor.state_dict()) == []


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("tuning", [None, Tuning(0.1, "cosine", 3), Tuning(learning_rate=0.1)])
def test_an_operation_is_read_back_from_a_journal(verb: Verb, tuning: Tuning | None) -> None:
    command = Operate("s3", verb, tuning)
    assert command_from_json(json.loads(json.dumps(command.to_json()))) == command
