"""The lifecycle against a simple model of it, under random commands, gates and failures."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from esper_async.kasmina.evaluation import Evaluation
from esper_async.kasmina.executor import CommandRefusedError
from esper_async.kasmina.kernels.graft import grafts_of
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.stage import (
    ACTIVE,
    ON_TRIAL,
    TRANSITIONS,
    IllegalTransitionError,
    Stage,
    check_transition,
)
from tests.kasmina.plots import Plot

EVERY = list(Stage)


@pytest.mark.parametrize("source", EVERY, ids=lambda stage: stage.name)
@pytest.mark.parametrize("target", EVERY, ids=lambda stage: stage.name)
def test_a_transition_is_legal_or_raises_with_what_would_be(source: Stage, target: Stage) -> None:
    if target in TRANSITIONS[source]:
        check_transition("s1", source, target)
        return
    with pytest.raises(IllegalTransitionError, match=f"s1 cannot go from {source.name}"):
        check_transition("s1", source, target)


def test_every_active_stage_may_be_culled_and_a_kept_seed_may_not() -> None:
    assert all(Stage.CULLED in TRANSITIONS[stage] for stage in ACTIVE)
    assert Stage.CULLED not in TRANSITIONS[Stage.FOSSILIZED]


def test_an_illegal_move_changes_nothing() -> None:
    plot = Plot("mlp")
    (seed,) = plot.plant("BP021")
    plot.moves.clear()
    seed.stage_steps = 3
    with pytest.raises(IllegalTransitionError):
        plot.executor._move(seed, Stage.FOSSILIZED, None)
    assert (seed.stage, seed.stage_steps, plot.moves) == (Stage.TRAINING, 3, [])


LIMITS = {"max_seeds": 2, "max_candidates": 3}
SITES = {"here": "body", "early": "body.2"}
GAIN = st.sampled_from([0.5, 0.5, 0.5, 0.5, 0.0, -0.5, float("nan")])


def scored(loss: float, gain: float = 0.0) -> Evaluation:
    losses: Tensor = torch.full((4,), loss - gain, dtype=torch.float64)
    return Evaluation(losses, torch.ones(4), {}, {}, "sample")


class Life:
    """A run whose measurements are made up, so that every gate's outcome occurs."""

    def __init__(self) -> None:
        self.plot = Plot(
            "mlp",
            sites=SITES,
            dwell_steps=2,
            g2_margin=-0.02,
            max_windows=2,
            window_boundaries=2,
            **LIMITS,
        )
        self.executor = self.plot.executor
        self.executor._listener = self.note  # type: ignore[assignment]
        self.stages: dict[str, Stage] = {}
        self.index = 0

    def note(self, seed: Any, source: Stage, target: Stage, gate: Any) -> None:
        """Every change starts where the last one ended, is legal, and is told after it is done."""
        assert self.stages.get(seed.id, Stage.DORMANT) is source
        assert target in TRANSITIONS[source]
        assert seed.stage is target
        self.stages[seed.id] = target
        if target is Stage.FOSSILIZED:
            assert gate is not None
            assert gate.name == "G4"
            assert gate.passed
        if target is Stage.BLENDING:
            assert gate is not None
            assert gate.name == "G2"
            assert gate.passed

    def germinate(self, names: list[tuple[str, str]]) -> None:
        before = dict(self.stages), list(self.executor.seeds)
        resting = self.executor.resting_sites()
        training = len(self.executor.in_stage(Stage.TRAINING))
        blended = len(self.executor.in_stage(*ON_TRIAL, Stage.FOSSILIZED))
        fits = (
            1 <= len(names) <= LIMITS["max_candidates"] - training
            and blended < LIMITS["max_seeds"]
            and all(site in SITES and site not in resting for site, _ in names)
            and all(blueprint != "BP999" for _, blueprint in names)
        )
        try:
            self.executor.germinate([Candidate(*name) for name in names])
        except CommandRefusedError:
            assert not fits
            assert (self.stages, list(self.executor.seeds)) == before
        else:
            assert fits

    def cull(self, number: int) -> None:
        seed = self.executor.seeds.get(f"s{number}")
        may = seed is not None and seed.stage in ACTIVE
        before = dict(self.stages)
        try:
            self.executor.cull(f"s{number}", "an operator")
        except CommandRefusedError:
            assert not may
            assert self.stages == before
        else:
            assert may
            assert self.stages[f"s{number}"] is Stage.CULLED

    def an_illegal_move_raises(self, number: int, wanted: Stage) -> None:
        seed = self.executor.seeds.get(f"s{number}")
        if seed is None or wanted in TRANSITIONS[seed.stage]:
            return
        before = dict(self.stages)
        with pytest.raises(IllegalTransitionError):
            self.executor._move(seed, wanted, None)
        assert self.stages == before

    def epoch(self, steps: int, clean: float, benefit: float, finite: bool) -> None:
        for _ in range(steps):
            self.plot.step(self.index)
            self.index += 1
        self.executor.start_boundary()
        loss = 1.0 if finite else float("nan")
        results = {"host": scored(loss)}
        for name in self.executor.variants():
            gain = {"off": 0.0, "twin": 0.0, "averaged": benefit}.get(name, clean)
            results[name] = scored(loss if name == "off" else 1.0, gain)
        self.executor.advance(results)

    def the_limits_hold(self) -> None:
        executor = self.executor
        trial = executor.in_stage(*ON_TRIAL)
        assert len(trial) <= 1
        assert [seed.id for seed in trial] == (
            [] if executor.trial is None else [executor.trial.seed.id]
        )
        assert len(executor.in_stage(Stage.GERMINATED)) == 0
        assert len(executor.in_stage(Stage.TRAINING)) <= LIMITS["max_candidates"]
        assert len(executor.in_stage(*ON_TRIAL, Stage.FOSSILIZED)) <= LIMITS["max_seeds"]

    def the_network_holds_exactly_the_blended_seeds(self) -> None:
        blended = self.executor.in_stage(*ON_TRIAL, Stage.FOSSILIZED)
        held = {name.rpartition(".")[2] for name in grafts_of(self.plot.model)}
        assert held == {seed.attribute for seed in blended}
        assert set(self.plot.branch.seed_order) == {seed.id for seed in blended}

    def what_ended_holds_nothing(self) -> None:
        for seed in self.executor.seeds.values():
            if seed.ended:
                assert seed.optimizer is None
                assert not seed.buffers
                assert (seed.body, seed.stream) == (None, None)

    def check(self) -> None:
        self.the_limits_hold()
        self.the_network_holds_exactly_the_blended_seeds()
        self.what_ended_holds_nothing()


NUMBER = st.integers(1, 8)
GERMINATE = st.tuples(
    st.just("germinate"),
    st.lists(
        st.tuples(
            st.sampled_from(["here", "early", "here", "early", "nowhere"]),
            st.sampled_from(["BP001", "BP001", "BP001", "BP014", "PL003", "BP999"]),
        ),
        max_size=4,
    ),
)
EPOCH = st.tuples(
    st.just("epoch"), st.integers(1, 5), GAIN, GAIN, st.sampled_from([True] * 9 + [False])
)
CULL = st.tuples(st.just("cull"), NUMBER)
ILLEGAL = st.tuples(st.just("an_illegal_move_raises"), NUMBER, st.sampled_from(EVERY))
EVENTS = st.one_of(EPOCH, EPOCH, EPOCH, EPOCH, GERMINATE, CULL, ILLEGAL)


@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(
    first=st.sampled_from([[("here", "BP001")], [("here", "BP001"), ("early", "BP014")]]),
    events=st.lists(EVENTS, min_size=15, max_size=30),
)
def test_random_lives_keep_to_the_rules(
    first: list[tuple[str, str]], events: list[tuple[Any, ...]]
) -> None:
    life = Life()
    life.germinate(first)
    for name, *arguments in events:
        getattr(life, name)(*arguments)
        life.check()
