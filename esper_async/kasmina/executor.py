"""The executor: plants, trains, blends, judges and removes seeds, on command and by rule."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from esper_async.kasmina.branch import Branch
from esper_async.kasmina.call import Call, Forward
from esper_async.kasmina.compute import ComputeAccount
from esper_async.kasmina.distillation import Teacher, lessons
from esper_async.kasmina.evaluation import Evaluation, SampleLoss, Variant
from esper_async.kasmina.gates import SPOILT_TWIN, GateResult
from esper_async.kasmina.isolation import IN_A_ROW, isolation_verdict
from esper_async.kasmina.judgement import (
    benefit_verdict,
    interface_verdict,
    measure_benefit,
    note_contributions,
    paired,
    trained_verdict,
)
from esper_async.kasmina.memory import TwinChoice, choose_twin, growth_budget_bytes
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.planting import (
    CommandRefusedError,
    build_graft,
    check_candidates,
    make_seeds,
    sanity,
)
from esper_async.kasmina.random_state import RandomStream, fresh_stream
from esper_async.kasmina.resting import MOST_RECORDS, forget, reset_verdict, rest, unknown_seed
from esper_async.kasmina.rounds import Round, over, present_rounds
from esper_async.kasmina.seed import Candidate, Seed, number_of
from esper_async.kasmina.seed_state import restore_seed, saved_seed, seed_state
from esper_async.kasmina.shadow import shadow_variant, start_shadow
from esper_async.kasmina.shadow_training import ShadowTraining
from esper_async.kasmina.sites import Site
from esper_async.kasmina.stage import ACTIVE, CANDIDATE, RESTING, Stage, check_transition
from esper_async.kasmina.tournament import decide, halve
from esper_async.kasmina.training_slots import free_slots, slot_gate, take_turns
from esper_async.kasmina.trend import LossTrend
from esper_async.kasmina.trial import TrainStep, Trial

TransitionListener = Callable[[Seed, Stage, Stage, GateResult | None], None]
_COUNTERS = (
    "boundary",
    "steps",
    "steps_per_boundary",
    "_steps_at_boundary",
    "_margin_scale",
    "twin_budget_bytes",
    "violations",
    "planted",
    "tournaments",
    "removed",
)


class Executor:
    """The seeds of one run. It obeys commands and its own gates; it decides nothing.

    Args:
        branch: the run's network and optimizers.
        forward: how the network is called on a batch.
        loss: the run's loss.
        sites: where seeds may grow.
        options: limits, schedule and margins.
        run_seed: seeds' weights and random numbers derive from it.
        train_step: trains a twin on a batch; without it trials are judged against a trend.
        on_transition: told of every stage change, after it happened.
        twin_budget_bytes: what a twin may take where that is asked (`twin = "auto"`); growth's
            share of the device's memory if None. A resumed run keeps the one it began with.
        teacher: has a part in the loss that seeds learn from in shadow.

    Attributes:
        seeds: by id, oldest first; of those that are past their reset only the newest.
        planted, tournaments, removed: how many there were in all.
        quarantined: blueprints whose seeds touched the host; none of them is planted again.
        shadows: trains the seeds that learn in shadow.
        violations: samples that found such a trace since `take_violations` was called.
    """

    def __init__(
        self,
        branch: Branch,
        *,
        forward: Forward,
        loss: SampleLoss,
        sites: Sequence[Site],
        options: GrowthOptions,
        run_seed: int,
        train_step: TrainStep | None = None,
        on_transition: TransitionListener | None = None,
        twin_budget_bytes: int | None = None,
        teacher: Teacher | None = None,
    ) -> None:
        self.branch = branch
        self.sites = {site.name: site for site in sites}
        self.options = options
        self.seeds: dict[str, Seed] = {}
        self.trial: Trial | None = None
        self.host_parameters = sum(p.numel() for p in branch.model.parameters())
        self.boundary = 0
        self.steps = 0
        self.steps_per_boundary = 1
        self.planted = self.tournaments = self.removed = 0
        self.most_records = MOST_RECORDS
        self.quarantined: set[str] = set()
        self.violations = 0
        self.compute = ComputeAccount(branch.model, forward, loss.mean)
        self._steps_at_boundary = 0
        self._call = Call(branch.model, forward)
        called, mean = lessons(teacher, self._call, loss.mean)
        self.shadows = ShadowTraining(branch, called, mean, options=options, account=self.compute)
        self._forward = forward
        self._loss = loss
        self._run_seed = run_seed
        self._train_step = train_step
        if twin_budget_bytes is None:
            twin_budget_bytes = growth_budget_bytes(self._device)
        self.twin_budget_bytes = twin_budget_bytes
        self._build_graft = partial(
            build_graft,
            sites=self.sites,
            run_seed=run_seed,
            device=self._device,
            drill=options.drill,
        )
        self._make_seeds = partial(
            make_seeds,
            sites=self.sites,
            build=self._build_graft,
            host_optimizer=branch.optimizer,
            run_seed=run_seed,
        )
        self._listener = on_transition
        self._training: list[Seed] = []
        self._trend = LossTrend()
        self._margin_scale = 1.0
        relative = options.relative_margins
        self._relative_margins = not loss.in_nats if relative == "auto" else relative

    # -- what the run looks like ---------------------------------------------------------------

    def in_stage(self, *stages: Stage) -> list[Seed]:
        """Return the seeds in one of `stages`, oldest first."""
        return [seed for seed in self.seeds.values() if seed.stage in stages]

    @property
    def kept(self) -> list[Seed]:
        """The seeds that became part of the network, in the order of its forward pass."""
        trial = None if self.trial is None else self.trial.seed.id
        return [self.seeds[name] for name in self.branch.seed_order if name != trial]

    @property
    def added_parameters(self) -> int:
        """Parameters of the seeds in the forward pass."""
        return sum(seed.parameter_count for seed in self._in_forward())

    @property
    def remaining_parameters(self) -> int:
        """Parameters that may still be added within the budget."""
        budget = int(self.options.parameter_budget * self.host_parameters)
        return budget - self.added_parameters

    def resting_sites(self) -> set[str]:
        """Return the names of sites under embargo."""
        return {seed.site.name for seed in self.in_stage(*RESTING)}

    def room_for_a_seed(self) -> bool:
        """Whether another seed may be blended, now or once the present trial has ended."""
        return len(self._in_forward()) < self.options.max_seeds

    def with_optimizer(self) -> list[Seed]:
        """Return the seeds that learn."""
        return [*self._training, *self._in_forward()]

    def _in_forward(self) -> list[Seed]:
        return self.kept + ([self.trial.seed] if self.trial is not None else [])

    # -- commands ------------------------------------------------------------------------------

    def germinate(self, candidates: Sequence[Candidate]) -> list[Seed]:
        """Plant candidates as one tournament; they train in shadow as training slots are free.

        Raises:
            CommandRefusedError: G0 failed for one of them; none is planted.
        """
        check_candidates(
            candidates,
            limit=self.options.max_candidates - len(self.in_stage(*CANDIDATE)),
            sites=list(self.sites),
            resting=self.resting_sites(),
            quarantined=self.quarantined,
        )
        if not self.room_for_a_seed():
            raise CommandRefusedError(f"max_seeds ({self.options.max_seeds}) is reached")
        planted = self._make_seeds(
            candidates,
            first=self.planted + 1,
            tournament=f"t{self.tournaments + 1}",
            boundary=self.boundary,
            room=self.remaining_parameters,
        )
        self.tournaments += 1
        for seed in planted:
            self._plant(seed)
        self._take_turns()
        return planted

    def cull(self, seed_id: str, reason: str) -> None:
        """Remove a seed: at once before BLENDING, by adopting its twin after.

        Raises:
            CommandRefusedError: there is no such seed, or it is not active.
        """
        seed = self.seed(seed_id)
        if seed.stage not in ACTIVE:
            raise CommandRefusedError(
                f"seed {seed_id} is {seed.stage.name}; only a seed between GERMINATED and "
                f"PROBATIONARY can be culled"
            )
        self._remove(seed, GateResult("G0", True, reason, {}, self.boundary))

    def seed(self, seed_id: str) -> Seed:
        """Return a seed of this run.

        Raises:
            CommandRefusedError: there is none of that name.
        """
        if seed_id not in self.seeds:
            raise CommandRefusedError(unknown_seed(seed_id, self.seeds, planted=self.planted))
        return self.seeds[seed_id]

    def start_training(self, seed: Seed) -> None:
        """Let a germinated seed learn in shadow from the next batch on."""
        slots, busy = self.options.training_slots, len(self._training)
        gate = slot_gate(seed, training=busy, slots=slots, boundary=self.boundary)
        self._move(seed, Stage.TRAINING, gate)
        seed.hurried = False
        start_shadow(self.branch.model, seed)
        self._training.append(seed)

    @property
    def free_training_slots(self) -> int:
        """How many more seeds may train now."""
        return free_slots(self._training, slots=self.options.training_slots)

    def _take_turns(self) -> None:
        """Let seeds that wait in GERMINATED begin, as far as there are training slots."""
        waiting, slots = self.in_stage(Stage.GERMINATED), self.options.training_slots
        for seed in take_turns(self._training, waiting, slots=slots, present=self._rounds()):
            self.start_training(seed)

    def hold(self, seed: Seed, *, paused: bool) -> None:
        """Freeze a seed where it is, or let it go on."""
        seed.paused = paused
        self.branch.paused = {each.id for each in self.seeds.values() if each.paused}

    def judge_now(self, seed: Seed) -> None:
        """Keep the seed on trial if the window it has shows its benefit.

        Raises:
            CommandRefusedError: it does not; the seed stays on trial.
        """
        assert self.trial is not None
        assert self.trial.seed is seed
        told = len(seed.gates)
        gate = self._benefit_gate(self.trial)
        if not gate.passed:
            del seed.gates[told:]
            raise CommandRefusedError(f"seed {seed.id} does not pass G4 yet: {gate.reason}")
        self._fossilize(self.trial, gate)

    def _plant(self, seed: Seed) -> None:
        gate = sanity(seed, budget=self.remaining_parameters, boundary=self.boundary)
        self.seeds[seed.id] = seed
        self.planted += 1
        self.branch.own(seed)
        self._tell(seed, Stage.DORMANT, Stage.GERMINATED, gate)

    @property
    def _device(self) -> torch.device:
        return next(self.branch.model.parameters()).device

    # -- every step ----------------------------------------------------------------------------

    def after_step(self, batch: Any) -> None:
        """Go on by one optimizer step of the host, which was trained on `batch`."""
        self.steps += 1
        self.compute.host_step(batch)
        if self._training:
            for seed in self._training:
                seed.stage_steps += not seed.at_rest
            if self.steps % self.options.shadow_every == 0:
                self._shadow(batch)
        if self.trial is not None:
            self.trial.seed.stage_steps += not self.trial.seed.paused
            self.trial.after_step(batch)
            if self.trial.has_twin:
                self.compute.twin_step(batch)

    def _shadow(self, batch: Any) -> None:
        learning = [seed for seed in self._training if not seed.at_rest]
        for seed, found in self.shadows.learn(learning, batch):
            self.violations += 1
            if seed.violations >= IN_A_ROW:
                self._quarantine(seed, found)

    def _quarantine(self, seed: Seed, found: Sequence[str]) -> None:
        """Remove a seed that touches its host; its blueprint is not planted again in this run."""
        self.quarantined.add(seed.candidate.blueprint)
        self._remove(seed, isolation_verdict(seed, found, boundary=self.boundary))

    def take_violations(self) -> int:
        """Return how many samples found a trace in the host since this was last called."""
        taken, self.violations = self.violations, 0
        return taken

    # -- every boundary ------------------------------------------------------------------------

    def start_boundary(self) -> None:
        """Count a boundary; what is measured next belongs to it."""
        self.boundary += 1
        self.steps_per_boundary = max(self.steps - self._steps_at_boundary, 1)
        self._steps_at_boundary = self.steps
        for seed in self.seeds.values():
            if seed.stage is not Stage.DORMANT:
                seed.stage_boundaries += not seed.paused
        if self.trial is not None and self.trial.average is not None:
            self.trial.boundaries_past_ramp += not self.trial.seed.paused

    def variants(self) -> dict[str, Variant]:
        """Return what must be evaluated on the decision split, beside the host itself."""
        found: dict[str, Variant] = {}
        if self.trial is not None:
            found |= self.trial.variants(self._forward)
        asked = [seed for seed in self._training if seed.asked]
        due = [seed for _, members in self._due() for seed in members]
        for seed in dict.fromkeys([*due, *asked]):
            variant = shadow_variant(self._call, seed)
            if self.options.latency_budget is None:  # else passes are timed; to count takes time
                variant = self.compute.judging(seed.id, variant)
            found[f"shadow:{seed.id}"] = variant
        return found

    def modules(self) -> list[torch.nn.Module]:
        """Return every module that an evaluation touches beside the host."""
        trial = self.trial
        twin = [] if trial is None or not trial.has_twin else [trial.twin.model]
        return [*twin, *(seed.graft for seed in self._training)]

    def advance(self, results: Mapping[str, Evaluation]) -> None:
        """Judge every seed on what was measured ("host" and the variants), and move it on."""
        host = results["host"]
        self._margin_scale = abs(host.loss) if self._relative_margins else 1.0
        rest(self.in_stage(*RESTING), move=self._move, look=self._reset_gate)
        forget(self.seeds, most=self.most_records)
        trial = self.trial
        if trial is not None:
            self._judge_trial(trial, results)
        withdrawn = trial is not None and trial.seed.ended
        if not withdrawn:  # else the network that candidates were measured in is gone
            self._judge_tournaments(results)
        self._take_turns()
        self._trend.add(host.loss)

    def _rounds(self) -> dict[str, Round]:
        return present_rounds(self.seeds.values(), self.options)

    def _due(self) -> list[tuple[Round, list[Seed]]]:
        """Return the rounds that are over; a last one only if its winner could go on trial."""
        may_blend = self.trial is None or self._trial_may_end()
        ended = over(self.in_stage(*CANDIDATE), self._rounds())
        return [(end, members) for end, members in ended if may_blend or not end.last]

    def _trial_may_end(self) -> bool:
        trial = self.trial
        if trial is None or trial.seed.stage is not Stage.PROBATIONARY:
            return False
        return trial.boundaries_past_ramp % self.options.window_boundaries == 0

    def _judge_tournaments(self, results: Mapping[str, Evaluation]) -> None:
        measured = note_contributions(self._training, results)
        due = [(end, members) for end, members in self._due() if measured.issuperset(members)]
        for end, members in due:
            if not end.last:
                for seed, gate in halve(members, end, boundary=self.boundary):
                    self._remove(seed, gate)
        decided = [members for end, members in due if end.last]
        if self.trial is None and decided:
            self._end_tournament(decided[0], results)

    def _end_tournament(self, members: Sequence[Seed], results: Mapping[str, Evaluation]) -> None:
        winner, losers = decide(
            members,
            judge=partial(self._trained_gate, results),
            has_room=self._has_room,
            boundary=self.boundary,
        )
        for seed, gate in losers:
            self._remove(seed, gate)
        if winner is not None:
            self._blend(winner, winner.gates[-1])

    def _trained_gate(self, results: Mapping[str, Evaluation], seed: Seed) -> GateResult:
        scale = self._margin_scale
        return trained_verdict(seed, results, self.options, scale=scale, boundary=self.boundary)

    def _has_room(self, seed: Seed) -> bool:
        return self.room_for_a_seed() and seed.parameter_count <= self.remaining_parameters

    def _blend(self, seed: Seed, gate: GateResult) -> None:
        self._training.remove(seed)
        seed.buffers = {}
        wanted = "off" if self._train_step is None else self.options.twin
        choice = choose_twin(self.branch, wanted, self.twin_budget_bytes)
        if choice.numbers:
            gate = seed.amend(gate, choice.remark, choice.numbers)
        self._move(seed, Stage.BLENDING, gate)
        self._trend.freeze()
        self.trial = self._start_trial(seed, choice)

    def _start_trial(self, seed: Seed, choice: TwinChoice) -> Trial:
        self.compute.trial_started()
        return Trial(
            self.branch,
            seed,
            choice=choice,
            train_step=self._train_step,
            stream=RandomStream(fresh_stream(self._run_seed, "twin", seed.id)),
            ramp_steps=self.options.ramp_boundaries * self.steps_per_boundary,
            schedule=seed.candidate.ramp or self.options.ramp,
            horizon_steps=self.options.window_boundaries * self.steps_per_boundary,
        )

    def _judge_trial(self, trial: Trial, results: Mapping[str, Evaluation]) -> None:
        seed = trial.seed
        seed.dependence = paired(results, "off", "host")
        seed.asked = False
        if seed.paused:
            return
        if seed.stage is Stage.BLENDING:
            if trial.ramp_complete:
                gate = GateResult("ramp", True, "complete", {"alpha": seed.alpha}, self.boundary)
                self._move(seed, Stage.SHADOWING, gate)
                trial.start_averaging()
            return
        measure_benefit(trial, results, self._trend, boundary=self.boundary)
        if seed.benefit_vs_twin is not None:
            trial.benefits.append(seed.benefit_vs_twin.mean)
        if seed.stage is Stage.SHADOWING:
            gate = interface_verdict(results, boundary=self.boundary)
            if not gate.passed:
                self._remove(seed, gate)
                return
            self._move(seed, Stage.PROBATIONARY, gate)
        if self._trial_may_end():
            self._judge_benefit(trial)

    def _judge_benefit(self, trial: Trial) -> None:
        seed = trial.seed
        seed.windows += 1
        gate = self._benefit_gate(trial)
        if gate.passed:
            self._fossilize(trial, gate)
        elif seed.windows >= self.options.max_windows:
            self._remove(seed, gate)

    def _benefit_gate(self, trial: Trial) -> GateResult:
        return benefit_verdict(
            trial, self.options, scale=self._margin_scale, boundary=self.boundary
        )

    def _fossilize(self, trial: Trial, gate: GateResult) -> None:
        trial.keep()
        self.trial = None
        seed = trial.seed
        self.hold(seed, paused=False)  # what is kept trains on
        if self.options.fossilized_frozen:
            self.branch.freeze(seed)
        self._move(seed, Stage.FOSSILIZED, gate)

    def finish(self, results: Mapping[str, Evaluation]) -> None:
        """End the run's growth: drop what trains in shadow, judge the trial on what it has."""
        for seed in self.in_stage(*CANDIDATE):
            self._remove(seed, GateResult("G0", True, "the run ended", {}, self.boundary))
        trial = self.trial
        if trial is None:
            return
        measure_benefit(trial, results, self._trend, boundary=self.boundary)
        gate = self._benefit_gate(trial)
        if gate.passed and trial.seed.stage is Stage.PROBATIONARY:
            self._fossilize(trial, gate)
        else:
            self._remove(trial.seed, gate)

    # -- endings -------------------------------------------------------------------------------

    def _remove(self, seed: Seed, gate: GateResult) -> None:
        if self.trial is not None and self.trial.seed is seed:
            spoilt = self.trial.withdraw()
            if spoilt:
                remark = "its twin was not finite, so the run went back to before the blend"
                gate = seed.amend(gate, remark, {SPOILT_TWIN: float(len(spoilt))})
            self.trial = None
            self.compute.trial_withdrawn()
        elif seed.stage is Stage.TRAINING:
            self._training.remove(seed)
        self.hold(seed, paused=False)
        self.compute.seed_removed(seed.id)
        seed.release(self.boundary)
        self.removed += 1
        seed.rest_boundaries = self.options.embargo_boundaries
        self._move(seed, Stage.CULLED, gate)

    def _reset_gate(self, seed: Seed) -> GateResult:
        gate = reset_verdict(seed, self.branch, self._training, boundary=self.boundary)
        if gate.passed:
            self.branch.owners.release(seed.owner)
        return gate

    def _move(self, seed: Seed, target: Stage, gate: GateResult | None) -> None:
        check_transition(seed.id, seed.stage, target)
        source, seed.stage = seed.stage, target
        seed.stage_steps = 0
        seed.stage_boundaries = 0
        self._tell(seed, source, target, gate)

    def _tell(self, seed: Seed, source: Stage, target: Stage, gate: GateResult | None) -> None:
        if gate is not None and (not seed.gates or seed.gates[-1] is not gate):
            seed.gates.append(gate)
        if self._listener is not None:
            self._listener(seed, source, target, gate)

    # -- saved and restored --------------------------------------------------------------------

    def close(self) -> None:
        """Take every seed out of the network, whatever its stage; the executor is of no more use.

        The host's weights stay as they are.
        """
        if self.trial is not None:
            self.trial.keep()
        self.branch.paused = set()
        for seed_id in list(self.branch.seed_order):
            self.branch.detach(self.seeds[seed_id])
        for seed in self.seeds.values():
            self.branch.owners.release(seed.owner)

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs; tensors are shared with the living run."""
        return {
            "counters": {name: getattr(self, name) for name in _COUNTERS},
            "quarantined": sorted(self.quarantined),
            "training": [seed.id for seed in self._training],
            "scalers": {
                seed.id: self.branch.precision.state_of(seed.optimizer) for seed in self._training
            },
            "kept": [seed.id for seed in self.kept],
            "seeds": [seed_state(seed) for seed in self.seeds.values()],
            "compute": self.compute.state_dict(),
            "trend": self._trend.state_dict(),
            "trial": None if self.trial is None else self.trial.state_dict(),
            "branch": self.branch.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rebuild the topology, then load every weight and optimizer state, strictly.

        The executor must be fresh, on a host of the same architecture.
        """
        for saved in map(saved_seed, state["seeds"]):
            build = partial(self._build_graft, number=number_of(saved["id"]))
            seed = restore_seed(saved, self.sites, build, host_optimizer=self.branch.optimizer)
            if not seed.ended:
                self.branch.own(seed)
                if self.options.fossilized_frozen and seed.stage is Stage.FOSSILIZED:
                    seed.graft.requires_grad_(False)
            self.seeds[seed.id] = seed
        self._training = [self.seeds[seed_id] for seed_id in state["training"]]
        for seed_id, scaler in state["scalers"].items():
            self.branch.precision.load_state_of(self.seeds[seed_id].optimizer, scaler)
        for seed_id in state["kept"]:
            self.branch.attach(self.seeds[seed_id])
        if state["trial"] is not None:
            saved = state["trial"]
            self.trial = self._start_trial(self.seeds[saved["seed"]], TwinChoice(**saved["choice"]))
            self.trial.load_state_dict(saved)
        self.branch.load_state_dict(state["branch"])
        self.branch.paused = {seed.id for seed in self.seeds.values() if seed.paused}
        self.quarantined = set(state["quarantined"])
        for name, value in state["counters"].items():
            setattr(self, name, value)
        self.compute.load_state_dict(state["compute"])
        self._trend.load_state_dict(state["trend"])
