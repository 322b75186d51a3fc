"""The executor: commands that are refused change nothing, tournaments, trials, limits."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_async.kasmina.executor import CommandRefusedError
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.stage import Stage
from tests.growth_hosts import differing
from tests.kasmina.plots import Plot

TWO = {"here": "body", "early": "body.2"}


@pytest.mark.parametrize(
    ("candidates", "told"),
    [
        ([], "between 1 and 8"),
        ([("here", "BP021")] * 9, "between 1 and 8"),
        ([("here", "BP021"), ("nowhere", "BP021")], "no site 'nowhere'"),
        ([("here", "BP001"), ("here", "BP999")], "BP999"),
        ([("here", "BP001"), ("here", "BP015")], "does not fit"),
        ([("here", "BP001"), ("here", "BP021")], "budget"),
    ],
)
def test_a_germination_is_refused_whole(candidates: list[tuple[str, str]], told: str) -> None:
    plot = Plot("mlp", parameter_budget=4.0)
    before = plot.executor.state_dict()["seeds"]
    with pytest.raises(CommandRefusedError, match=told):
        plot.executor.germinate([Candidate(*pair) for pair in candidates])

    assert plot.executor.state_dict()["seeds"] == before == []
    assert plot.moves == []


def test_a_setting_out_of_bounds_is_refused_whole() -> None:
    plot = Plot("mlp")
    wrong = Candidate("here", "PL001", parameters={"level_percent": 10_000})
    with pytest.raises(CommandRefusedError, match="level_percent"):
        plot.executor.germinate([Candidate("here", "BP021"), wrong])
    assert plot.executor.seeds == {}


def test_planted_kernels_are_refused_outside_a_drill() -> None:
    plot = Plot("mlp", drill=False)
    with pytest.raises(CommandRefusedError, match="PL001"):
        plot.plant("PL001")


def test_a_site_under_embargo_is_refused_until_it_has_rested() -> None:
    plot = Plot("mlp", embargo_boundaries=2)
    plot.plant("BP021")
    plot.executor.cull("s1", "a test")
    for _ in range(2):
        with pytest.raises(CommandRefusedError, match="embargo"):
            plot.plant("BP021")
        plot.boundary()
    plot.plant("BP021")


def test_culling_what_is_not_there_or_over_is_refused() -> None:
    plot = Plot("mlp")
    with pytest.raises(CommandRefusedError, match="no seed 's7'"):
        plot.executor.cull("s7", "a test")
    plot.plant("BP021")
    plot.executor.cull("s1", "a test")
    with pytest.raises(CommandRefusedError, match="CULLED"):
        plot.executor.cull("s1", "a test")


def test_a_tournament_blends_its_best_and_culls_the_rest() -> None:
    plot = Plot("mlp", dwell_steps=40)
    loud = Candidate("here", "PL002", parameters={"level_percent": 400})
    plot.executor.germinate([Candidate("here", "BP021"), loud, Candidate("here", "BP014")])
    plot.epoch(steps=40)
    seeds = plot.executor.seeds

    assert [seed.stage for seed in seeds.values()].count(Stage.BLENDING) == 1
    assert [seed.stage for seed in seeds.values()].count(Stage.CULLED) == 2
    assert seeds["s2"].stage is Stage.CULLED
    losers = [seed for seed in seeds.values() if seed.stage is Stage.CULLED]
    assert all(seed.clean_contribution is not None for seed in losers)
    assert all(not seed.gates[-1].passed for seed in losers)


def test_a_harmful_candidate_never_reaches_blending() -> None:
    plot = Plot("mlp", g2_margin=-0.02)
    plot.plant("PL003")
    for index in range(20):
        plot.step(index)
    plot.boundary()

    assert plot.executor.trial is None
    assert plot.moves[-1] == ("s1", "TRAINING", "CULLED")
    assert plot.executor.seeds["s1"].gates[-1].name == "G2"


class FrozenBelow(nn.Module):
    """A backbone whose activation no gradient passes, as in fine-tuning; (N, 6) to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Linear(6, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            hidden = torch.tanh(self.backbone(rows))
        return self.head(hidden)


@pytest.mark.parametrize("shadow_mode", ["sequential", "batched"])
def test_a_seed_that_no_gradient_reaches_goes_by_its_gate(shadow_mode: str) -> None:
    torch.manual_seed(0)
    plot = Plot(model=FrozenBelow(), sites={"here": "backbone"}, shadow_mode=shadow_mode)
    plot.plant("BP021", "BP014")
    plot.epoch()
    assert {("s1", "TRAINING", "CULLED"), ("s2", "TRAINING", "CULLED")} <= set(plot.moves)
    (gate,) = [gate for gate in plot.executor.seeds["s1"].gates if gate.name == "G1"]
    assert "received no gradient" in gate.reason


def test_a_seed_that_is_too_slow_never_reaches_blending() -> None:
    plot = Plot("mlp", latency_budget=4.0)
    plot.plant("BP021")
    for index in range(20):
        plot.step(index)
    plot.executor.start_boundary()
    measured = plot.measure()
    assert all(result.pass_ms for result in measured.values())
    took_ms = {"host": 1.0, "shadow:s1": 5.0}
    plot.executor.advance(
        {name: replace(measured[name], pass_ms=ms) for name, ms in took_ms.items()}
    )

    gate = plot.executor.seeds["s1"].gates[-1]
    assert plot.moves[-1] == ("s1", "TRAINING", "CULLED")
    assert gate.name == "G2"
    assert "takes 5 times as long with it" in gate.reason


def test_only_one_seed_is_on_trial_and_the_others_wait() -> None:
    plot = Plot("mlp", sites=TWO, ramp_boundaries=2)
    plot.plant("BP021")
    plot.until("BLENDING")
    plot.plant("BP014", site="early")
    for epoch in range(3):
        plot.epoch(4 * epoch)
        on_trial = plot.executor.in_stage(Stage.BLENDING, Stage.SHADOWING, Stage.PROBATIONARY)
        assert len(on_trial) <= 1
        if plot.executor.trial is not None and plot.executor.trial.seed.id == "s1":
            assert plot.executor.seeds["s2"].stage is Stage.TRAINING


def test_candidates_are_not_judged_against_a_network_that_is_gone() -> None:
    """The trial's seed is withdrawn at the boundary where the next tournament is due."""
    plot = Plot("mlp", sites=TWO, g4_margin=1e9, window_boundaries=2)
    plot.plant("PL002")
    plot.until("BLENDING")
    plot.plant("BP014", site="early")
    plot.until("CULLED")

    assert plot.executor.seeds["s1"].stage is not Stage.PROBATIONARY
    assert plot.executor.seeds["s2"].stage is Stage.TRAINING
    assert plot.executor.seeds["s2"].clean_contribution is None
    plot.boundary()
    assert plot.executor.seeds["s2"].stage is Stage.BLENDING


def test_the_identity_has_no_dependence_and_no_benefit_beyond_rounding() -> None:
    """The null treatment: its twin goes through the same steps (but g + g - g rounds)."""
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    plot = Plot("mlp", model=model, sites={"here": "0"}, max_windows=3)
    plot.plant("BP001")
    plot.until("PROBATIONARY")
    seed = plot.executor.seeds["s1"]

    assert seed.clean_contribution is not None
    assert seed.dependence is not None
    assert seed.benefit_vs_twin is not None
    assert seed.clean_contribution.mean == 0.0
    assert (seed.dependence.low, seed.dependence.high) == (0.0, 0.0)
    assert abs(seed.benefit_vs_twin.mean) < 1e-6
    assert seed.benefit_vs_twin.high - seed.benefit_vs_twin.low < 1e-6


def test_a_seed_not_shown_to_help_goes_after_its_last_window() -> None:
    plot = Plot("mlp", max_windows=2, window_boundaries=2, g4_margin=1e9)
    plot.plant("BP001")
    plot.until("CULLED")
    seed = plot.executor.seeds["s1"]

    assert seed.windows == 2
    assert [gate.name for gate in seed.gates if not gate.passed] == ["G4", "G4"]


def test_max_seeds_counts_kept_ones() -> None:
    plot = Plot("mlp", sites=TWO, max_seeds=1, g4_margin=-1e9)
    plot.plant("BP021")
    plot.until("FOSSILIZED")
    with pytest.raises(CommandRefusedError, match="max_seeds"):
        plot.plant("BP014", site="early")


def test_a_loss_that_is_not_finite_ends_a_trial_by_its_gate() -> None:
    plot = Plot("mlp")
    plot.plant("BP021")
    plot.until("SHADOWING")
    plot.step(0)
    with torch.no_grad():
        for parameter in plot.executor.seeds["s1"].kernel.parameters():
            parameter.fill_(float("nan"))
    plot.boundary()

    assert plot.moves[-1] == ("s1", "SHADOWING", "CULLED")
    assert plot.executor.seeds["s1"].gates[-1].name == "G3"
    assert all(torch.isfinite(t).all() for t in plot.model.state_dict().values())


def test_finishing_drops_what_trains_and_judges_the_trial_on_what_it_has() -> None:
    for margin, last in ((-1e9, "FOSSILIZED"), (1e9, "CULLED")):
        plot = Plot("mlp", sites=TWO, window_boundaries=3, g4_margin=margin)
        plot.plant("BP021")
        plot.until("PROBATIONARY")
        plot.plant("BP014", site="early")
        plot.executor.finish(plot.measure())
        assert ("s2", "TRAINING", "CULLED") in plot.moves
        assert plot.moves[-1] == ("s1", "PROBATIONARY", last)
        assert plot.executor.trial is None


@pytest.mark.parametrize(
    ("until", "frozen"),
    [
        ("TRAINING", False),
        ("BLENDING", False),
        ("SHADOWING", False),
        ("PROBATIONARY", False),
        ("FOSSILIZED", False),
        ("FOSSILIZED", True),
    ],
)
def test_a_saved_executor_goes_on_bitwise_in_every_stage(until: str, frozen: bool) -> None:
    settings: dict[str, Any] = {
        "sites": TWO,
        "g4_margin": -1e9,
        "window_boundaries": 2,
        "fossilized_frozen": frozen,
    }
    plot = Plot("mlp", **settings)
    plot.plant("BP021", "BP014")
    plot.until(until)
    plot.step(0)
    saved = copy.deepcopy(plot.executor.state_dict())
    random = torch.get_rng_state()
    other = Plot("mlp", **settings)
    other.executor.load_state_dict(copy.deepcopy(saved))
    for each in (plot, other):
        torch.set_rng_state(random)
        each.moves.clear()
        for epoch in range(4):
            each.epoch(4 * epoch)

    assert plot.moves == other.moves
    assert differing(plot.executor.state_dict(), other.executor.state_dict()) == []
    learning = [{n: p.requires_grad for n, p in x.model.named_parameters()} for x in (plot, other)]
    assert learning[0] == learning[1]


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_a_benefit_that_was_not_finite_once_fails_its_window(odd: float) -> None:
    plot = Plot("mlp", window_boundaries=3, g4_margin=-1e9, max_windows=9)
    plot.plant("BP021")
    plot.until("PROBATIONARY")
    trial = plot.executor.trial
    assert trial is not None
    trial.benefits[:] = [odd]
    plot.boundary()
    plot.boundary()

    assert plot.executor.seeds["s1"].windows == 1
    assert plot.executor.seeds["s1"].stage is Stage.PROBATIONARY


def test_a_benefit_that_jumps_about_must_clear_more() -> None:
    plot = Plot("mlp", window_boundaries=2, g4_margin=0.0)
    plot.plant("BP021")
    plot.until("PROBATIONARY")
    trial = plot.executor.trial
    assert trial is not None
    trial.benefits[:] = [1.0, -1.0]
    gate = plot.executor._benefit_gate(trial)
    assert gate.numbers["margin"] == pytest.approx(2 * 2**0.5)


def test_finishing_measures_the_last_boundary_once() -> None:
    plot = Plot("mlp", window_boundaries=3, g4_margin=1e9)
    plot.plant("BP021")
    plot.until("PROBATIONARY")
    trial = plot.executor.trial
    assert trial is not None
    before = len(trial.benefits)
    plot.executor.finish(plot.measure())
    assert len(trial.benefits) == before


def test_a_seed_whose_weights_ran_away_is_not_blended() -> None:
    plot = Plot("mlp")
    (seed,) = plot.plant("BP021")
    for index in range(4):
        plot.step(index)
    with torch.no_grad():  # one tensor only, and its mean over all of them is small
        list(seed.graft.parameters())[1].fill_(150.0)
    plot.boundary()
    gate = seed.gates[-1]
    assert (seed.stage, gate.name, gate.passed) == (Stage.CULLED, "G2", False)
    assert gate.numbers["weight_rms"] == pytest.approx(150.0)


def test_a_blueprint_that_declares_why_is_excused_from_gradients_in_every_tensor() -> None:
    plot = Plot("mlp")
    (seed,) = plot.executor.germinate([Candidate("here", "PL002", "confidence_gated")])
    for index in range(4):
        plot.step(index)
    assert seed.gradients.reached is not None
    seed.gradients.reached[0] = False
    plot.boundary()
    health = next(gate for gate in seed.gates if gate.name == "G1")
    assert health.passed
    assert "its noise is a buffer; nothing in it can learn" in health.reason
