"""`Grower`: growth inside a training loop that somebody else wrote."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn
from torch.amp.grad_scaler import GradScaler
from torch.optim import Optimizer

from esper_async.kasmina.branch import Branch
from esper_async.kasmina.call import Forward, default_forward, first_batch_size
from esper_async.kasmina.compiling.choice import CompileMode, Compiling
from esper_async.kasmina.compiling.host import HostCompiler
from esper_async.kasmina.compiling.taken_over import compiling_of
from esper_async.kasmina.distillation import Teacher, check_same
from esper_async.kasmina.evaluation import Evaluation, Loss, Metric, SampleLoss
from esper_async.kasmina.executor import Executor
from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.legal import (
    CertificateStore,
    LegalPair,
    MemoryStore,
    Progress,
    Supply,
    check_blueprints,
    legal_pairs,
)
from esper_async.kasmina.memory import growth_budget_bytes
from esper_async.kasmina.micro_batches import parts_of
from esper_async.kasmina.operations import operate, pause_each
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.ownership import HOST, Owners, OwnershipError
from esper_async.kasmina.planting import CommandRefusedError, check_legal
from esper_async.kasmina.precision import Precision, PrecisionName
from esper_async.kasmina.ranks import Form, Ranks, json_form, lone_rank
from esper_async.kasmina.replicas import align, spread_streams
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.seed_memory import SeedMemory
from esper_async.kasmina.seed_optimizer import unrated
from esper_async.kasmina.sites import Site, called_paths, find_sites
from esper_async.kasmina.stage import Stage
from esper_async.kasmina.trial import TrainStep
from esper_async.tamiyo.command import (
    Command,
    Cull,
    Decision,
    Germinate,
    NoOp,
    PauseSeeds,
    decision_from_json,
)
from esper_async.tamiyo.policies import Policy, make_policy, sees_graph
from esper_async.tamiyo.view import MachineView, View
from esper_async.tolaria.boundary_report import BoundaryReport, Transition
from esper_async.tolaria.ledger import Ledger
from esper_async.tolaria.lr import LRController
from esper_async.tolaria.progress import ProgressLine
from esper_async.tolaria.run_facts import SAME_RUN, run_facts, site_facts
from esper_async.tolaria.scorer import Scorer
from esper_async.tolaria.seeds_view import ViewMaker
from esper_async.tolaria.site_state import pair_state, places_text, restore_pair, restore_places
from esper_async.tolaria.step import Step
from esper_async.urza import Library

Decide = Callable[[Policy, View], Decision]
_DECISION = json_form(Decision.to_json, decision_from_json)
_NUMBER = json_form(int, int)


class Grower:
    """Grows a model while a loop of the caller's trains it.

    Wrap each step (forward, backward, `optimizer.step()`) in `with grower.step(batch)`, call
    `boundary` after each epoch and `finish` after the last one. Seeds' parameters have optimizers
    of their own that follow the caller's; the caller's groups are never touched.

    With several `ranks` every process makes the same calls, and its forward passes of training go
    through `trained_model`. Rank 0 evaluates and decides; what its validation loader, its policy or
    a metric raises is raised on the others as a `FirstRankError`.

    Args:
        model: the host, on the device where it is trained.
        optimizer: the one that trains it.
        loss: `loss(output, target)`.
        policy: a policy's name or a policy.
        seed: weights and random numbers of seeds, and the policy's choices, derive from it.
        train_step: `(model, optimizer, batch) -> loss`, with which a twin is trained; without it
            trials are judged against a trend, at twice the margin.
        forward: `(model, batch) -> (output, target)`, for batches that are not (input, target).
        metrics: further metrics of a boundary.
        sites: site name to submodule path; found by tracing the first batch if None.
        growth: limits, schedule and margins.
        boundaries: how many boundaries the run has, where that is known.
        certificates: where kernels' certificates are kept; the library in `state_dir` if None.
        state_dir: the folder of that library, so that kernels are proved once, and not again under
            the supervisor; None keeps certificates in this process's memory.
        blueprints: ids to choose from; all of the allowed tiers if None.
        rates: the learning-rate authority; one that leaves the host's rates alone if None.
        supply: has missing certificates made elsewhere; proved in this process if None.
        progress: told of certificates being proved: `(done, total, what)`; a line on the terminal
            shows it if None.
        precision: of shadow passes: "32", "bf16-mixed" or "16-mixed", as in the caller's loop.
        scaler: the caller's gradient scaler, which "16-mixed" needs: the gradients of seeds in the
            forward pass are scaled by it, too.
        decide: `(policy, view) -> Decision`, called in place of `policy.decide(view)`: a run
            journals there what it is about to do.
        ranks: the processes that train this model together: `DistributedRanks()` under `torchrun`;
            None is this one alone.
        compile: what of the model is compiled: "off", "regions", "model", or a `Compiling`. Give
            the plain model; submodules that `torch.compile` has wrapped are compiled as regions.
        teacher: a trained network from whose soft targets seeds learn in shadow, too; it is frozen.

    Raises:
        CompileError: the model cannot be compiled so, or is what `torch.compile` returned.
        TeacherRefusedError: the teacher takes more memory than growth may.
        OwnershipError: it shares a parameter with the host.
        TypeError, ValueError: a growth option, a tier or a blueprint is not known.
        ValueError: "16-mixed" without a scaler, or a scaler without it; an optimizer without rates.
        TypeError, ValueError: no ranks, although the model or the process is one of several.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        *,
        loss: Loss,
        policy: str | Policy = "heuristic",
        seed: int = 0,
        train_step: TrainStep | None = None,
        forward: Forward | None = None,
        metrics: Mapping[str, Metric] | None = None,
        sites: Mapping[str, str] | None = None,
        growth: GrowthOptions | Mapping[str, Any] | None = None,
        boundaries: int | None = None,
        certificates: CertificateStore | None = None,
        state_dir: str | Path | None = ".esper",
        blueprints: Sequence[str] | None = None,
        rates: LRController | None = None,
        supply: Supply | None = None,
        progress: Progress | None = None,
        precision: PrecisionName | Precision = "32",
        scaler: GradScaler | None = None,
        decide: Decide | None = None,
        ranks: Ranks | None = None,
        compile: CompileMode | Compiling = "off",  # noqa: A002 - as torch and the run file call it
        teacher: nn.Module | None = None,
    ) -> None:
        if unrated(optimizer):
            raise ValueError(f"the optimizer is {unrated(optimizer)}")
        compiling = compiling_of(compile, model)
        self.model = model
        self.optimizer = optimizer
        self.options = GrowthOptions.of(growth)
        check_blueprints(blueprints, tiers=self.options.tiers, drill=self.options.drill)
        self.policy = make_policy(policy, seed) if isinstance(policy, str) else policy
        self.seed = seed
        self.boundaries = boundaries
        self.sites: list[Site] = []
        self.legal: list[LegalPair] = []
        self.executor: Executor | None = None
        self._ledger = Ledger()
        if not isinstance(precision, Precision):
            if (precision == "16-mixed") != (scaler is not None):
                raise ValueError(
                    'precision="16-mixed" and scaler= go together: pass the GradScaler of your loop'
                )
            device = next(model.parameters()).device
            precision = Precision(precision, device.type, {optimizer: scaler} if scaler else None)
        self.ranks = ranks or lone_rank(model)
        self._branch = Branch(
            model,
            optimizer,
            clip_norm=self.options.clip_norm,
            precision=precision,
            ranks=self.ranks,
        )
        self._have_agreed = self.ranks.size == 1
        self._loss = SampleLoss(loss)
        self._forward = forward or default_forward
        self._scorer = Scorer(
            model,
            forward=self._forward,
            loss=self._loss,
            metrics=dict(metrics or {}),
            ranks=self.ranks,
            timed=self.options.latency_budget is not None,
        )
        self._train_step = train_step
        self._named_sites = sites
        self._store = certificates
        self._state_dir = state_dir
        self._blueprints = blueprints
        self._supply = supply
        self._progress = progress
        self._rates = rates or LRController(optimizer, warmup_steps=self.options.warmup_steps)
        self._transitions: list[Transition] = []
        self._step = Step(self.after_step)
        self._decide_by = decide or _ask_policy
        self.grows = self.policy.name != "static"
        self._boundary = 0
        self._views = ViewMaker(())
        self.machine: Callable[[], MachineView | None] = lambda: None
        self.shows_whole = False
        self.compiler = HostCompiler(self._branch, compiling)
        if not self.grows:
            self.compiler.install()
        self.batch_size = 0
        self._places = ""
        self._teacher = None if teacher is None else self._employed(teacher)

    # -- the loop ------------------------------------------------------------------------------

    @property
    def trained_model(self) -> nn.Module:
        """What to call in a forward pass of training: `model`, or its wrap for several ranks.

        The same object until the network changes; a wrap of before that raises when it is called.

        Raises:
            RanksDifferError: the processes do not train the same network in the same way.
        """
        self._agree_on_run()
        return self._branch.trained_model

    def _agree_on_run(self) -> None:
        if not self._have_agreed:
            facts = run_facts(
                self.model,
                self.optimizer,
                self.options,
                seed=self.seed,
                policy=self.policy.name,
                boundaries=self.boundaries,
                blueprints=self._blueprints,
                train_step=self._train_step is not None,
                teacher=None if self._teacher is None else self._teacher.digest,
                precision=self._branch.precision.name,
            )
            self.ranks.must_agree(facts, SAME_RUN)
            self._have_agreed = True

    @property
    def history(self) -> list[dict[str, float]]:
        """The metrics of each boundary, oldest first."""
        return self._ledger.records

    def step(self, batch: Any) -> Step:
        """Return the context manager for one optimizer step of the caller's on `batch`.

        Where gradients are accumulated over several batches, pass all of them, as `MicroBatches`.
        """
        if self.grows and self.executor is None:
            self.prepare(parts_of(batch)[0])
        self._step.batch = batch
        return self._step

    def prepare(self, batch: Any) -> None:
        """Find the sites by tracing `batch`, and certify what may be planted at them.

        Called by the first `step`; calling it before makes that step as quick as any other.

        Raises:
            NoSiteError: there is no place to grow.
            CompileError: the model cannot be compiled as it was asked for.
            RanksDifferError: the processes do not train the same network in the same way.
        """
        self._agree_on_run()
        self.batch_size = first_batch_size(batch)
        self.sites = find_sites(self.model, self._forward, batch, self._named_sites)
        self.ranks.must_agree(site_facts(self.sites), SAME_RUN)
        paths = [site.path for site in self.sites]
        self.compiler.install(paths, lambda: called_paths(self.model, self._forward, batch))
        self.executor = self._make_executor()
        self.legal = self.ranks.from_first(self._certified, self._legal_form())
        self._views = ViewMaker(self.legal)
        self._places = places_text(self.sites, self.legal)

    def _certified(self) -> list[LegalPair]:
        line = ProgressLine(self.boundaries or 1, shown=self._progress is None)
        with closing(line), self._certificates() as store:
            return legal_pairs(
                self.sites,
                store,
                tiers=self.options.tiers,
                only=self._blueprints,
                drill=self.options.drill,
                supply=self._supply,
                progress=self._progress or line.certificates,
            )

    @contextmanager
    def _certificates(self) -> Iterator[CertificateStore]:
        """Yield where certificates are kept; a library of our own is closed afterwards."""
        if self._store is not None:
            yield self._store
        elif self._state_dir is None:
            yield MemoryStore()
        else:
            with closing(Library(Path(self._state_dir) / "urza", actor="Grower")) as library:
                yield library

    def _legal_form(self) -> Form[list[LegalPair]]:
        return json_form(
            lambda pairs: [pair_state(pair) for pair in pairs],
            lambda states: [restore_pair(state, self.sites) for state in states],
        )

    def _make_executor(self) -> Executor:
        device = next(self.model.parameters()).device
        budget = self.ranks.from_first(partial(growth_budget_bytes, device), _NUMBER)
        return Executor(
            self._branch,
            forward=self._forward,
            loss=self._loss,
            sites=self.sites,
            options=self.options,
            run_seed=self.seed,
            train_step=self._train_step,
            on_transition=self._note,
            twin_budget_bytes=budget,
            teacher=self._teacher,
        )

    def _employed(self, model: nn.Module) -> Teacher:
        device = next(self.model.parameters()).device
        budget = self.ranks.from_first(partial(growth_budget_bytes, device), _NUMBER)
        teacher = Teacher.of(model, self._forward, self._loss, self.options)
        return teacher.employ(self.owners, device, budget_bytes=budget)

    def after_step(self, batch: Any) -> None:
        """Go on by one optimizer step on `batch`; leaving `step` calls it."""
        self.compiler.after_step()
        executor = self.executor
        if executor is None:
            self._rates.step(())
            return
        self._branch.settle()
        self._rates.step(executor.with_optimizer())
        executor.after_step(batch)

    def boundary(
        self,
        validation_loader: Iterable[Any],
        *,
        training_loss: float | None = None,
        training_accuracy: float | None = None,
    ) -> BoundaryReport:
        """Evaluate, judge the seeds, decide, and carry the decision out.

        The model's mode is left as it was. The loader is iterated once, and on rank 0 alone. What
        the caller knows of training since the last boundary stands among the metrics.

        Raises:
            EmptyLoaderError: the loader yields nothing.
            UserCodeError: the loader, the forward function, the loss or a metric raised.
            FirstRankError: something was raised on rank 0.
            RanksDifferError: the replicas are not the same any more.
        """
        started = time.perf_counter()
        self._boundary += 1
        if self.executor is not None:
            self.executor.start_boundary()
        results = self._evaluate(validation_loader)
        evaluated = time.perf_counter()
        metrics = _metrics_of(results["host"])
        told = {"training_loss": training_loss, "training_accuracy": training_accuracy}
        metrics |= {name: value for name, value in told.items() if value is not None}
        if "twin" in results:
            metrics["twin_loss"] = results["twin"].loss
            metrics["averaged_loss"] = results["averaged"].loss
        self._ledger.append(metrics)
        if self.executor is not None:
            self.executor.advance(results)
        judged = time.perf_counter()
        decision = self._decide()
        decided = time.perf_counter()
        refused = self._try(decision.command)
        self._rates.boundary(metrics)
        self._spread_streams()
        ended = time.perf_counter()
        return BoundaryReport(
            self._boundary,
            metrics,
            decision,
            self._take_transitions(),
            {
                "validation": 1e3 * (evaluated - started),
                "assembly": 1e3 * (judged - evaluated),
                "decision": 1e3 * (decided - judged),
                "apply": 1e3 * (ended - decided),
                "total": 1e3 * (ended - evaluated),
            },
            refused,
            None if self.executor is None else self.executor.take_violations(),
            self.compiler.take(),
        )

    def _try(self, command: Command) -> str | None:
        """Carry out a policy's command; return why it was refused: that ends no training."""
        try:
            self._carry_out(command)
        except CommandRefusedError as refusal:
            return str(refusal)
        return None

    def carry_out(self, command: Command) -> None:
        """Carry out a command now.

        Raises:
            CommandRefusedError: it cannot be carried out; nothing was changed.
            RanksDifferError: the replicas are not the same any more.
        """
        self._align()
        self._carry_out(command)
        self._spread_streams()

    def _carry_out(self, command: Command) -> None:
        if isinstance(command, NoOp) or self.executor is None:
            return
        if isinstance(command, Germinate):
            if not self.options.drill:  # a drill plants what no certificate would let pass
                check_legal(command.candidates, {(p.site.name, p.blueprint) for p in self.legal})
            SeedMemory(self.executor, self.batch_size).check(command.candidates, self.legal)
            self.executor.germinate(command.candidates)
        elif isinstance(command, Cull):
            self.executor.cull(command.seed, "culled on command")
        elif isinstance(command, PauseSeeds):
            pause_each(self.executor, command.seeds, paused=command.paused)
        else:
            operate(self.executor, command.seed, command.verb, command.tuning)

    def register(self, parameters: Iterable[nn.Parameter]) -> None:
        """Count parameters as the host's, so that the caller's optimizer may train them.

        Those that the model or the optimizer had when the `Grower` was made are the host's anyhow.

        Raises:
            OwnershipError: a seed owns one of them, or a seed is on trial: its twin has not got
                them, and could not be taken over. Nothing was registered.
        """
        trial = None if self.executor is None else self.executor.trial
        if trial is not None:
            raise OwnershipError(
                f"seed {trial.seed.id} is on trial, and what it is compared with has no such "
                f"parameter; register new ones after its trial, or cull it first"
            )
        self.owners.register(HOST, parameters)

    @property
    def owners(self) -> Owners:
        """Who may train which parameter."""
        return self._branch.owners

    def finish(self, validation_loader: Iterable[Any]) -> list[Transition]:
        """End growth: drop what trains in shadow, judge the trial on the window it has."""
        if self.executor is not None:
            self.executor.finish(self._evaluate(validation_loader))
        return self._take_transitions()

    # -- parts ---------------------------------------------------------------------------------

    def _evaluate(self, loader: Iterable[Any]) -> dict[str, Evaluation]:
        """Evaluate on rank 0; every rank goes on from its results, with its buffers."""
        results = self._scorer.variants(loader, self.executor)
        self._align()
        return results

    def _align(self) -> None:
        if self.ranks.size > 1:
            align(self.ranks, self._branch, self.executor)

    def _spread_streams(self) -> None:
        if self.ranks.size > 1:
            spread_streams(self.ranks, self.executor)

    def score(self, loader: Iterable[Any], *, split: str = "test") -> Evaluation:
        """Evaluate the network as it is on a split, by sample; on rank 0 alone."""
        return self._scorer.score(loader, split=split)

    def _decide(self) -> Decision:
        if self.executor is None:
            return Decision(NoOp(), "nothing has been trained yet", 1.0)
        return self.ranks.from_first(self._decide_here, _DECISION)

    def _decide_here(self) -> Decision:
        return self._decide_by(self.policy, self.look())

    def look(self) -> View:
        """Return the run as a policy sees it now; its sites must have been found."""
        assert self.executor is not None
        return self._views.view(
            self.executor,
            self.history,
            batch_size=self.batch_size,
            boundary=self._boundary,
            last_boundary=self.boundaries,
            whole=sees_graph(self.policy) or self.shows_whole,
            gradients=sees_graph(self.policy),
            machine=self.machine(),
        )

    def _note(self, seed: Seed, source: Stage, target: Stage, gate: GateResult | None) -> None:
        self._transitions.append(Transition(seed, source, target, gate))

    def _take_transitions(self) -> list[Transition]:
        taken, self._transitions = self._transitions, []
        return taken

    # -- saved and restored --------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Return everything a resumed run needs, the network and its optimizers included.

        Tensors are shared with the living run: save them, or copy them, before going on. Of several
        ranks the state of rank 0, taken after a boundary and before the next step, is the run's.
        """
        executor = self.executor
        return {
            "boundary": self._boundary,
            "batch_size": self.batch_size,
            "teacher": None if self._teacher is None else self._teacher.digest,
            "history": self._ledger.state(),
            "policy": self.policy.state_dict(),
            "rates": self._rates.state_dict(),
            "places": self._places,
            "executor": None if executor is None else executor.state_dict(),
            "branch": self._branch.state_dict() if executor is None else None,
            "regions": self.compiler.paths,
        }

    def slow_down(self, factor: float) -> None:
        """Multiply the learning rates of the seeds, and of the host where we set them, for good."""
        self._rates.slow_down(factor)

    def uncompile(self) -> None:
        """Let the model run as it is written from now on."""
        self.compiler.close()

    def ungrow(self) -> None:
        """Take every seed out of the network, as if none had been planted; then load a state."""
        if self.executor is not None:
            self.executor.close()
        self.executor = None
        self.sites, self.legal = [], []

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Rebuild the grown topology on a fresh host and load everything, strictly.

        Every rank loads the state that rank 0 saved.

        Raises:
            RuntimeError: the host is not of the architecture that was saved.
            RanksDifferError: the processes have loaded different states.
        """
        check_same(self._teacher, state["teacher"])
        self._boundary, self.batch_size = state["boundary"], state["batch_size"]
        self._ledger.load(state["history"])
        self.policy.load_state_dict(state["policy"])
        if state["executor"] is None:
            self._branch.load_state_dict(state["branch"])
        else:
            self._places = state["places"]
            self.sites, self.legal = restore_places(self._places)
            self._views = ViewMaker(self.legal)
            self.compiler.install_again(state["regions"])
            self.executor = self._make_executor()
            self.executor.load_state_dict(state["executor"])
        self._rates.load_state_dict(state["rates"])
        self._align()
        self._spread_streams()


def _metrics_of(host: Evaluation) -> dict[str, float]:
    metrics = {"validation_loss": host.loss}
    return metrics | {f"validation_{name}": value for name, value in host.metrics.items()}


def _ask_policy(policy: Policy, view: View) -> Decision:
    return policy.decide(view)
