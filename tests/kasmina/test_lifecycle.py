"""The lifecycle against a simple model of it, under random commands, gates and failures."""

import hashlib
from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper_async.kasmina.evaluation import Evaluation
from esper_async.kasmina.executor import CommandRefusedError
from esper_async.kasmina.kernels.graft import Graft, GraftHook, grafts_of
from esper_async.kasmina.operations import VERBS, Tuning, Verb, operate, pause
from esper_async.kasmina.ownership import HOST
from esper_async.kasmina.probe import SiteStatistics
from esper_async.kasmina.seed import Candidate, Seed, number_of
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


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The tensors are small: on a busy machine a second thread is only waited for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


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


def values(state: Any) -> Iterator[bytes]:
    """Yield everything in nested containers of tensors and plain values, in order."""
    if isinstance(state, Tensor):
        yield f"{state.dtype}{(*state.shape,)}".encode()
        yield state.detach().numpy().tobytes()
    elif isinstance(state, dict):
        for key, value in state.items():
            yield str(key).encode()
            yield from values(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from values(value)
    else:
        yield repr(state).encode()


def digest(plot: Plot) -> str:
    """Return a digest of all that a run is: its state, and what of it no state dict holds."""
    model, branch = plot.model, plot.branch
    beside = [
        sorted(branch.paused),
        [(name, part.training, len(part._forward_hooks)) for name, part in model.named_modules()],
        [[id(p) for p in group["params"]] for group in plot.optimizer.param_groups],
        [p.grad for p in model.parameters()],
        [branch.owners.owner_of(p) for p in model.parameters()],
        torch.get_rng_state(),
    ]
    found = hashlib.sha256()
    for value in values([plot.executor.state_dict(), beside]):
        found.update(value)
    return found.hexdigest()


def test_a_digest_sees_a_single_bit_of_every_part_of_the_state() -> None:
    plot = Plot("mlp")
    (seed,) = plot.plant("BP021")
    plot.step(0)
    known = {digest(plot)}
    changes: list[Callable[[], object]] = [
        lambda: next(plot.model.parameters()).data.view(-1)[0].add_(1e-7),
        lambda: next(seed.graft.parameters()).data.view(-1)[0].add_(1e-7),
        lambda: plot.optimizer.state[next(plot.model.parameters())]["exp_avg"].mul_(2.0),
        lambda: setattr(seed, "hurried", True),
        lambda: plot.executor.quarantined.add("BP001"),
        plot.model.get_submodule("head").eval,
        plot.model.zero_grad,
        lambda: torch.rand(1),
    ]
    for number, change in enumerate(changes, start=2):
        change()
        known.add(digest(plot))
        assert len(known) == number


@pytest.mark.parametrize("stage", ["TRAINING", "BLENDING", "PROBATIONARY", "FOSSILIZED", "DORMANT"])
def test_every_illegal_move_raises_and_changes_nothing(stage: str) -> None:
    never = {"window_boundaries": 50} if stage == "PROBATIONARY" else {}
    plot = Plot("mlp", g4_margin=1e9 if stage == "DORMANT" else -1e9, **never)
    (seed,) = plot.plant("BP021")
    plot.until(stage)
    before, told = digest(plot), list(plot.moves)
    for target in set(EVERY) - TRANSITIONS[seed.stage]:
        with pytest.raises(IllegalTransitionError):
            plot.executor._move(seed, target, None)
        assert digest(plot) == before
    assert plot.moves == told


LIMITS = {"max_seeds": 3, "max_candidates": 4}
SITES = {"here": "body", "early": "body.2"}
PATHS = {"here": "body.4", "early": "body.2"}
GAIN = st.sampled_from([0.5] * 12 + [0.0, -0.5, float("nan")])
BENEFIT = st.sampled_from([0.5] * 4 + [0.0, 0.0, 0.0, -0.5, float("nan")])
MAY: dict[Verb, tuple[Stage, ...]] = {
    "FOSSILIZE": (Stage.PROBATIONARY,),
    "START_TRAINING": (Stage.GERMINATED,),
    "CANCEL": (Stage.GERMINATED,),
    "START_GRAFTING": (Stage.TRAINING,),
    "STABILIZE": (Stage.BLENDING,),
    "EVALUATE": (Stage.TRAINING, *ON_TRIAL),
    "FINE_TUNE": (Stage.TRAINING, *ON_TRIAL),
}


def scored(loss: float, gain: float = 0.0) -> Evaluation:
    losses: Tensor = torch.full((4,), loss - gain, dtype=torch.float64)
    site = SiteStatistics(0.0, 1.0, 0.0, ((4, 8),))
    return Evaluation(losses, torch.ones(4), {}, {}, "sample", site=site)


Slots = int | Literal["auto"]


def fresh_plot(slots: Slots, tournament: str) -> Plot:
    plot = Plot(
        "mlp",
        max_training=slots,
        tournament=tournament,
        first_round_steps=1,
        sites=SITES,
        dwell_steps=5,
        g2_margin=-0.02,
        ramp_boundaries=2,
        max_windows=2,
        window_boundaries=2,
        isolation_every=3,
        **LIMITS,
    )
    plot.executor.most_records = 1
    return plot


class Life:
    """A run whose measurements are made up, so that every gate's outcome occurs.

    Beside it stands a model of it: each seed's stage as it was told, which blueprints are in
    quarantine, and at which sites something was left.
    """

    def __init__(self, slots: Slots, tournament: str) -> None:
        self.asked_for = slots, tournament
        self.slots = LIMITS["max_candidates"] if slots == "auto" else slots
        self.stages: dict[str, Stage] = {}
        self.quarantined: set[str] = set()
        self.left: dict[str, Any] = {}
        self.removed = 0
        self.index = 0
        self.live_in(fresh_plot(*self.asked_for))

    def live_in(self, plot: Plot) -> None:
        self.plot, self.executor = plot, plot.executor
        self.executor._listener = self.note

    def note(self, seed: Seed, source: Stage, target: Stage, gate: Any) -> None:
        """Every change starts where the last one ended, is legal, and is told after it is done."""
        assert self.stages.get(seed.id, Stage.DORMANT) is source
        assert target in TRANSITIONS[source]
        assert seed.stage is target
        self.stages[seed.id] = target
        self.removed += target is Stage.CULLED
        needed = {Stage.BLENDING: "G2", Stage.FOSSILIZED: "G4", Stage.PROBATIONARY: "G3"}
        if target in needed:
            assert (gate.name, gate.passed) == (needed[target], True)
        if target is Stage.BLENDING:  # not before every candidate has had its turn
            rivals = [s for s in self.executor.seeds.values() if s.tournament == seed.tournament]
            assert all(self.stages[rival.id] is not Stage.GERMINATED for rival in rivals)
        if target is Stage.CULLED and "place" in gate.numbers:  # by the end of a round
            assert self.asked_for[1] == "halving"
            assert gate.numbers["place"] > gate.numbers["places"] == 2
        if target is Stage.RESETTING:
            assert (gate is not None) == (seed.site.name in self.left)
        if (source, target) == (Stage.RESETTING, Stage.DORMANT):
            assert (gate.name, gate.passed) == ("G5", True)
            assert seed.site.name not in self.left

    def some(self, number: int) -> str:
        """Return the id of a seed, active ones first; or one that there is not."""
        seeds = self.executor.seeds.values()
        known = [seed.id for seed in sorted(seeds, key=lambda seed: seed.stage not in ACTIVE)]
        return known[number] if number < len(known) else f"s{1000 + number}"

    def try_it(self, seed_id: str, may: bool, deed: Callable[[], object]) -> bool:
        """Do something that may be done, or is refused and changes nothing; say which it was."""
        before, told = digest(self.plot), dict(self.stages)
        try:
            deed()
        except CommandRefusedError as refusal:
            assert not may, refusal
            assert digest(self.plot) == before
            assert self.stages == told
            return False
        assert may, seed_id
        return True

    def stage_of(self, seed_id: str) -> Stage | None:
        seed = self.executor.seeds.get(seed_id)
        return None if seed is None else seed.stage

    def germinate(self, names: list[tuple[str, str]]) -> None:
        resting = self.executor.resting_sites()
        training = len(self.executor.in_stage(Stage.GERMINATED, Stage.TRAINING))
        blended = len(self.executor.in_stage(*ON_TRIAL, Stage.FOSSILIZED))
        may = (
            1 <= len(names) <= LIMITS["max_candidates"] - training
            and blended < LIMITS["max_seeds"]
            and all(site in SITES and site not in resting for site, _ in names)
            and all(blueprint != "BP999" for _, blueprint in names)
            and not {blueprint for _, blueprint in names} & self.quarantined
        )
        first = self.executor.planted + 1
        candidates = [Candidate(*name) for name in names]
        if self.try_it("a germination", may, lambda: self.executor.germinate(candidates)):
            planted = [f"s{number}" for number in range(first, first + len(names))]
            assert list(self.executor.seeds)[-len(names) :] == planted
            self.nobody_waits_in_vain()

    def cull(self, number: int) -> None:
        seed_id = self.some(number)
        may = self.stage_of(seed_id) in ACTIVE
        if self.try_it(seed_id, may, lambda: self.executor.cull(seed_id, "an operator")):
            assert self.stages[seed_id] is Stage.CULLED

    def operate(self, number: int, verb: Verb, tuning: Tuning | None) -> None:
        seed_id = self.some(number)
        stage = self.stage_of(seed_id)
        may = stage in MAY[verb]
        if verb == "FINE_TUNE":
            ramps = tuning is not None and (tuning.ramp or tuning.ramp_boundaries) is not None
            rate = None if tuning is None else tuning.learning_rate
            may = may and tuning is not None and (ramps or rate is not None)
            may = may and not (ramps and stage is not Stage.BLENDING)
            may = may and (rate is None or rate > 0)
        if verb == "FOSSILIZE" and may:  # the gate decides
            before = digest(self.plot)
            try:
                operate(self.executor, seed_id, verb, tuning)
            except CommandRefusedError:
                assert digest(self.plot) == before
            else:
                assert self.stages[seed_id] is Stage.FOSSILIZED
            return
        told = dict(self.stages)
        free = self.slots - len(self.with_a_slot())
        done = self.try_it(seed_id, may, lambda: operate(self.executor, seed_id, verb, tuning))
        if done and verb == "CANCEL":
            told[seed_id] = Stage.CULLED
        if done and verb == "START_TRAINING" and free > 0:
            told[seed_id] = Stage.TRAINING
        assert self.stages == told  # none of the others moves a seed by itself
        if done and verb == "START_TRAINING" and free <= 0:
            assert self.executor.seeds[seed_id].hurried  # it is the next one

    def pause(self, number: int, paused: bool) -> None:
        seed_id = self.some(number)
        may = self.stage_of(seed_id) in (Stage.TRAINING, *ON_TRIAL)
        if self.try_it(seed_id, may, lambda: pause(self.executor, seed_id, paused=paused)):
            assert (seed_id in self.plot.branch.paused) == paused

    def an_illegal_move_raises(self, number: int, wanted: Stage) -> None:
        seed = self.executor.seeds.get(self.some(number))
        if seed is None or wanted in TRANSITIONS[seed.stage]:
            return
        before, told = digest(self.plot), dict(self.stages)
        with pytest.raises(IllegalTransitionError):
            self.executor._move(seed, wanted, None)
        assert digest(self.plot) == before
        assert self.stages == told

    def trespass(self, number: int) -> None:
        """Let a seed in training be found at its host three times in a row."""
        seed = self.executor.seeds.get(self.some(number))
        if seed is not None and seed.stage is Stage.TRAINING:
            self.executor._quarantine(seed, ["the buffer body.1.running_mean"])
            self.quarantined.add(seed.candidate.blueprint)
            assert self.stages[seed.id] is Stage.CULLED

    def leave_a_hook(self, site: str) -> None:
        """Let something be left behind at a site, or take it away again."""
        if site in self.left:
            self.left.pop(site).remove()
            return
        hook = GraftHook(Graft(nn.Identity(), form="nf", mode="residual"))
        module = self.plot.model.get_submodule(PATHS[site])
        self.left[site] = module.register_forward_hook(hook)

    def save_and_load(self) -> None:
        """Go on in another process: there nothing is left of what no state dict holds."""
        for handle in self.left.values():
            handle.remove()
        self.left = {}
        saved = self.executor.state_dict()
        other = fresh_plot(*self.asked_for)
        other.executor.load_state_dict(saved)
        known = [b"".join(values(run.executor.state_dict())) for run in (self.plot, other)]
        assert known[0] == known[1]
        self.live_in(other)

    def epoch(self, steps: int, clean: float, benefit: float, finite: bool) -> None:
        held = [seed for seed in self.executor.in_stage(*ACTIVE) if seed.paused]
        before = [(s.stage, b"".join(values(dict(s.graft.state_dict())))) for s in held]
        idle = [s for s in self.candidates() if s not in self.with_a_slot()]
        as_they_were = [b"".join(values(dict(seed.graft.state_dict()))) for seed in idle]
        for _ in range(steps):
            self.plot.step(self.index)
            self.index += 1
        still = [b"".join(values(dict(seed.graft.state_dict()))) for seed in idle]
        assert as_they_were == still  # who has no slot is not trained
        self.executor.start_boundary()
        loss = 1.0 if finite else float("nan")
        results = {"host": scored(loss)}
        for name in self.executor.variants():
            gain = {"off": 0.0, "twin": 0.0, "averaged": benefit}.get(name, clean)
            results[name] = scored(loss if name == "off" else 1.0, gain)
        line = sorted(self.executor.in_stage(Stage.GERMINATED), key=lambda s: not s.hurried)
        over, trial = self.rounds_over(), self.executor.trial
        self.executor.advance(results)
        if trial is None or not trial.seed.ended:  # else nothing was judged
            assert all(len(self.rivals(name)) == 2 for name in over)
        begun = [seed.id for seed in line if self.stages[seed.id] is not Stage.GERMINATED]
        assert begun == [seed.id for seed in line[: len(begun)]]  # nobody was overtaken
        self.nobody_waits_in_vain()
        after = [(s.stage, b"".join(values(dict(s.graft.state_dict())))) for s in held]
        assert before == after

    def end(self) -> None:
        """End the growth, then take everything out: the host is bare, and owns what is there."""
        self.executor.finish({"host": scored(1.0)})
        assert self.executor.in_stage(*ACTIVE) == []
        self.check()
        self.executor.close()
        assert grafts_of(self.plot.model) == {}
        assert {self.plot.branch.owners.owner_of(p) for p in self.plot.model.parameters()} == {HOST}

    def candidates(self) -> list[Seed]:
        return self.executor.in_stage(Stage.GERMINATED, Stage.TRAINING)

    def with_a_slot(self) -> list[Seed]:
        return [seed for seed in self.executor.in_stage(Stage.TRAINING) if not seed.stood_down]

    def rivals(self, tournament: str) -> list[Seed]:
        return [seed for seed in self.candidates() if seed.tournament == tournament]

    def goal(self, seed: Seed) -> int:
        """Return the steps after which a seed's round is over: two of three or four go on."""
        rivals = self.rivals(seed.tournament)
        some_go = len(rivals) > 2 and not all(rival.hurried for rival in rivals)
        return 2 if self.asked_for[1] == "halving" and some_go else 5

    def is_done(self, seed: Seed) -> bool:
        trained = seed.stage_steps >= self.goal(seed) or seed.hurried
        return seed.stage is Stage.TRAINING and not seed.paused and trained

    def rounds_over(self) -> list[str]:
        """Return the tournaments of which two go on now, and the others go."""
        fields = {seed.tournament: self.rivals(seed.tournament) for seed in self.candidates()}
        return [
            name
            for name, rivals in fields.items()
            if self.goal(rivals[0]) == 2 and all(map(self.is_done, rivals))
        ]

    def nobody_waits_in_vain(self) -> None:
        """A slot is free, or one who has one needs it no more, only where nobody waits."""
        training = self.executor.in_stage(Stage.TRAINING)
        resting = [seed for seed in training if seed.stood_down and not seed.paused]
        waiting = [seed for seed in resting if not self.is_done(seed)]
        if not self.executor.in_stage(Stage.GERMINATED) and not waiting:
            return
        busy = self.with_a_slot()
        assert len(busy) == self.slots
        assert not any(map(self.is_done, busy))

    def the_limits_hold(self) -> None:
        executor = self.executor
        trial = executor.in_stage(*ON_TRIAL)
        assert len(trial) <= 1
        assert [seed.id for seed in trial] == (
            [] if executor.trial is None else [executor.trial.seed.id]
        )
        assert len(self.with_a_slot()) <= self.slots
        assert len(self.candidates()) <= LIMITS["max_candidates"]
        assert len(executor.in_stage(*ON_TRIAL, Stage.FOSSILIZED)) <= LIMITS["max_seeds"]

    def the_network_holds_exactly_the_blended_seeds(self) -> None:
        blended = self.executor.in_stage(*ON_TRIAL, Stage.FOSSILIZED)
        held = {name.rpartition(".")[2] for name in grafts_of(self.plot.model)}
        assert held == {seed.attribute for seed in blended}
        assert set(self.plot.branch.seed_order) == {seed.id for seed in blended}

    def every_optimizer_holds_its_owners_parameters(self) -> None:
        owners = self.plot.branch.owners
        owners.check(HOST, self.plot.optimizer)
        for seed in self.executor.seeds.values():
            if seed.optimizer is not None:
                owners.check(seed.owner, seed.optimizer)
        assert None not in {owners.owner_of(p) for p in self.plot.model.parameters()}

    def what_ended_holds_nothing(self) -> None:
        for seed in self.executor.seeds.values():
            if seed.ended:
                assert seed.optimizer is None
                assert not seed.buffers
                assert (seed.body, seed.stream) == (None, None)

    def the_records_are_those_that_were_told(self) -> None:
        executor = self.executor
        assert {name: seed.stage for name, seed in executor.seeds.items()}.items() <= (
            self.stages.items()
        )
        forgotten = self.stages.keys() - executor.seeds.keys()
        assert {self.stages[name] for name in forgotten} <= {Stage.DORMANT}
        assert executor.planted == len(self.stages) == max(map(number_of, self.stages), default=0)
        assert executor.removed == self.removed
        assert executor.quarantined == self.quarantined
        assert executor.violations == 0

    def check(self) -> None:
        self.the_limits_hold()
        self.the_network_holds_exactly_the_blended_seeds()
        self.every_optimizer_holds_its_owners_parameters()
        self.what_ended_holds_nothing()
        self.the_records_are_those_that_were_told()


NUMBER = st.sampled_from([0, 0, 0, 0, 1, 1, 2, 3, 9])
PLANTED = st.lists(
    st.tuples(
        st.sampled_from(["here", "early"] * 5 + ["nowhere"]),
        st.sampled_from(["BP001", "BP003", "BP014", "PL003", "BP012", "BP002"] * 2 + ["BP999"]),
    ),
    min_size=1,
    max_size=3,
)
TUNING = st.sampled_from(
    [
        Tuning(learning_rate=0.1),
        Tuning(learning_rate=-1.0),
        Tuning(ramp="cosine"),
        Tuning(0.1, "sigmoid", 2),
        Tuning(),
        None,
    ]
)
EPOCH = st.tuples(
    st.just("epoch"), st.integers(2, 4), GAIN, BENEFIT, st.sampled_from([True] * 19 + [False])
)
GERMINATE = st.tuples(st.just("germinate"), PLANTED)
EVENT: dict[str, Any] = {
    "epoch": EPOCH,
    "germinate": GERMINATE,
    "none": st.tuples(st.just("germinate"), st.just([])),
    "cull": st.tuples(st.just("cull"), NUMBER),
    "operate": st.tuples(st.just("operate"), NUMBER, st.sampled_from(VERBS), TUNING),
    "keep": st.tuples(st.just("operate"), st.just(0), st.just("FOSSILIZE"), st.none()),
    "pause": st.tuples(st.just("pause"), NUMBER, st.booleans()),
    "illegal": st.tuples(st.just("an_illegal_move_raises"), NUMBER, st.sampled_from(EVERY)),
    "trespass": st.tuples(st.just("trespass"), NUMBER),
    "leave": st.tuples(st.just("leave_a_hook"), st.sampled_from(list(SITES))),
    "save": st.tuples(st.just("save_and_load")),
}
HOW_OFTEN = {
    "epoch": 16,
    "germinate": 8,
    "keep": 4,
    "operate": 10,
    "pause": 4,
    "cull": 2,
    "illegal": 2,
}
EVENTS = st.sampled_from([name for name in EVENT for _ in range(HOW_OFTEN.get(name, 1))]).flatmap(
    EVENT.__getitem__
)


def live(
    slots: Slots, tournament: str, first: list[tuple[str, str]], events: list[tuple[Any, ...]]
) -> None:
    life = Life(slots, tournament)
    life.germinate(first)
    for name, *arguments in events:
        getattr(life, name)(*arguments)
        life.check()
    life.end()


FIRST = st.sampled_from(
    [
        [("here", "BP001")],
        [("here", "BP001"), ("early", "BP014")],
        [("here", "BP001"), ("early", "BP014"), ("here", "BP003"), ("early", "BP002")],
    ]
)


SLOTS = st.sampled_from(["auto", 1, 2])
TOURNAMENT = st.sampled_from(["full", "halving"])
ONCE = (Phase.generate,)  # looking for a smaller example that fails would take minutes


@settings(max_examples=12, deadline=None, derandomize=True, database=None, phases=ONCE)
@given(
    slots=SLOTS,
    tournament=TOURNAMENT,
    first=FIRST,
    events=st.lists(EVENTS, min_size=30, max_size=50),
)
def test_random_lives_keep_to_the_rules(
    slots: Slots, tournament: str, first: list[tuple[str, str]], events: list[tuple[Any, ...]]
) -> None:
    live(slots, tournament, first, events)


@pytest.mark.full
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    slots=SLOTS,
    tournament=TOURNAMENT,
    first=FIRST,
    events=st.lists(EVENTS, min_size=20, max_size=80),
)
def test_many_random_lives_keep_to_the_rules(
    slots: Slots, tournament: str, first: list[tuple[str, str]], events: list[tuple[Any, ...]]
) -> None:
    live(slots, tournament, first, events)
