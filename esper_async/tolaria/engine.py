"""The engine: trains a task from its first epoch, or its last checkpoint, to its end."""

import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch

from esper_async.kasmina.call import default_forward, move
from esper_async.kasmina.compiling.kernel_loader import Supplier
from esper_async.kasmina.compute import training_macs
from esper_async.kasmina.evaluation import Evaluation
from esper_async.kasmina.legal import CertificateStore, Progress, Supply
from esper_async.kasmina.micro_batches import parts_of, step_size
from esper_async.kasmina.precision import Precision
from esper_async.kasmina.user_code import UserCodeError
from esper_async.tamiyo.policies import Policy
from esper_async.tolaria import global_random
from esper_async.tolaria.boundary_report import BoundaryReport
from esper_async.tolaria.checkpoint import CheckpointStore
from esper_async.tolaria.chronicle import Chronicle
from esper_async.tolaria.compiled_kernels import RunKernels
from esper_async.tolaria.control import Control, NoControl, Steer
from esper_async.tolaria.deciding import Decider, DecisionHungError
from esper_async.tolaria.early_stop import stall
from esper_async.tolaria.emergency import Level
from esper_async.tolaria.epoch_loader import EpochLoader
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.grown import save_grown
from esper_async.tolaria.hardware import machine_view
from esper_async.tolaria.ledger import Ledger
from esper_async.tolaria.loss_guard import LossGuard
from esper_async.tolaria.machine import machine, machine_difference
from esper_async.tolaria.operator import OPERATOR, Operator
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.outcome import Outcome, Overhead, State, Tally, WallClock, outcome_of
from esper_async.tolaria.policy_updates import PolicyUpdates
from esper_async.tolaria.records import boundary_record, start_record
from esper_async.tolaria.recovery import Cause, Recovery, WayBack, remedy
from esper_async.tolaria.rehearsal import rehearse
from esper_async.tolaria.run_journal import Listener, RunJournal
from esper_async.tolaria.schedule import make_rates
from esper_async.tolaria.task import Task
from esper_async.tolaria.training import (
    LossError,
    be_deterministic,
    choose_device,
    choose_threads,
    count_boundaries,
    make_train_step,
)
from esper_async.tolaria.training_accuracy import TrainingAccuracy
from esper_async.tolaria.way_back import no_way_back, step_after

_COUNTED = ("steps", "boundary", "samples", "macs_per_sample", "is_stalled")
MODEL_FILE = "model.pt"


class Engine:
    """Trains one task. With a folder it journals, checkpoints, resumes, and leaves `model.pt`.

    Args:
        task: what to train; its model is trained in place.
        options: how.
        run_id: the name of the run in its records.
        folder: the run's folder; None keeps nothing on disk.
        control: who steers; nobody if None.
        listener: told of every new record.
        certificates: where kernels' certificates are kept.
        supply: has missing certificates made elsewhere.
        progress: told of certificates being proved.
        blueprints: ids to choose from; all of the allowed tiers if None.
        policy: a policy of the caller's in place of the one the options name.
        kernels: compiles kernels; used outside deterministic mode, on the CPU, with a folder.
        bus_backlog: share of the bus's outgoing queue that is full; None where there is no bus.
        updates: of `policy`; None where no update can reach it.
    """

    def __init__(
        self,
        task: Task,
        options: RunOptions,
        *,
        run_id: str = "run",
        folder: Path | None = None,
        control: Control | None = None,
        listener: Listener | None = None,
        certificates: CertificateStore | None = None,
        supply: Supply | None = None,
        progress: Progress | None = None,
        blueprints: list[str] | None = None,
        policy: Policy | None = None,
        kernels: Supplier | None = None,
        bus_backlog: Callable[[], float | None] = lambda: None,
        updates: PolicyUpdates | None = None,
    ) -> None:
        self.task, self.options = task, options
        self._control = control or NoControl()
        self._run_id = run_id
        self._folder = folder
        kept = options.checkpoints_kept
        self._recovery = Recovery(
            None if folder is None else CheckpointStore(folder / "checkpoints", kept=kept),
            in_memory=options.in_memory,
            budget_bytes=options.in_memory_bytes,
        )
        self._loss_guard = LossGuard()
        self._journal = RunJournal(
            run_id, None if folder is None else folder / "journal.jsonl", listener
        )
        self._certificates = certificates
        self._supply = supply
        self._progress = progress
        self._blueprints = blueprints
        self._policy = policy
        self._device = choose_device(options.device)
        self._loader = EpochLoader(task.train_loader, [task.validation_loader])
        self._deterministic = (
            self._device.type == "cpu" if options.deterministic == "auto" else options.deterministic
        )
        compiles = self._device.type == "cpu" and not self._deterministic
        self._kernels = RunKernels(kernels if compiles else None, folder)
        # elsewhere each look at a loss would wait for the device: the sum is looked at instead
        self._guards_each_step = self._device.type == "cpu"
        self._history = Ledger()
        self._chronicle = Chronicle(self._journal, self._position)
        self._steps = self._boundary = self._samples = 0
        self._operator = Operator(self._journal, self._chronicle)
        self._decider = Decider(
            self._journal,
            self._chronicle,
            command_id=self._command_id,
            deterministic=self._deterministic,
            bus_backlog=bus_backlog,
            may_go_back=lambda: self._recovery.before(self._steps) is not None,
            updates=updates,
        )
        self._rolled_back = self._is_stalled = False
        self._ending: Literal["stopped", "drained"] | None = None
        self._overhead = Overhead()
        self._macs_per_sample = 0.0

    # -- the run -------------------------------------------------------------------------------

    def run(self) -> Outcome:
        """Train to the end, or until asked to stop.

        The caller's random states, torch thread count and model mode are as they were afterwards.

        Raises:
            TaskError: the task cannot be trained; what was done so far is kept.
            UserCodeError: code of the task raised; the message says which, and after which step.
        """
        with global_random.preserved(self.task.model):
            torch.set_num_threads(choose_threads(self.options))
            if self._deterministic:
                be_deterministic(self._device, strict=self.options.deterministic is True)
            try:
                return self._run()
            except UserCodeError as error:
                raise error.of_task(self._steps, self._loader.epoch) from error.__cause__
            finally:
                self._loader.close()
                self._recovery.wait()

    def record_end(self, result: Mapping[str, Any]) -> None:
        """Write the run's last record."""
        self._chronicle.note("run_ended", **result)

    def refuse_unmet(self, asked: Iterable[Steer]) -> None:
        """Record of each numbered request that it came too late for the run to carry it out."""
        for steer in asked:
            if not self._journal.met(steer.request):
                reason = f"the run had ended before the {steer.kind} could be carried out"
                self._chronicle.refuse(reason, request=steer.request)

    def close(self) -> None:
        """Close the journal; nothing can be recorded afterwards."""
        self._journal.close()

    def _run(self) -> Outcome:
        global_random.seed_everything(self.options.seed)
        self._set_up()
        try:
            return self._train()
        finally:
            self._decider.close()
            self.grower.uncompile()
            self._kernels.close()

    def _train(self) -> Outcome:
        self._resume()
        while not self._over() and self._loader.epoch < self.options.epochs:
            self._run_epoch()
        if self._ending == "drained":
            self._save()
            return self._outcome("drained", None)
        self._finish()
        if self._folder is not None:
            save_grown(self.grower, self._folder / MODEL_FILE)
        test = None if self._test is None else self.grower.score(self._test)
        return self._outcome(self._ending or "completed", test)

    def _set_up(self) -> None:
        task, options = self.task, self.options
        task.model.to(self._device)
        task.model.train()
        self._optimizer = task.make_optimizer(task.model.parameters())
        self._total = count_boundaries(task, options)
        precision = Precision(options.precision, self._device.type)
        self._train_step = make_train_step(task, precision)
        self._accuracy = TrainingAccuracy(task, precision)
        rates = make_rates(
            task,
            options,
            self._optimizer,
            self._total,
            on_violation=self._chronicle.rate_restored,
        )
        self.grower = Grower(
            task.model,
            self._optimizer,
            state_dir=None,
            loss=task.loss,
            policy=self._policy or options.make_policy(),
            seed=options.seed,
            train_step=self._train_step,
            forward=task.forward,
            metrics=task.metrics,
            sites=options.sites or task.sites,
            growth=options.growth,
            boundaries=self._total,
            certificates=self._certificates,
            blueprints=self._blueprints,
            rates=rates,
            supply=self._supply,
            progress=self._progress,
            precision=precision,
            decide=self._decider.decide,
            compile=options.compiling(deterministic=self._deterministic, taken_over=task.compiled),
            teacher=task.teacher,
        )
        self.grower.shows_whole = True
        if not self._deterministic:
            self.grower.machine = lambda: machine_view(self._device, self._decider.last_ms)
        self.grower.compiler.on_start = partial(self._heartbeat, phase="compiling")
        self._chronicle.name(self._run_id, self.grower.policy)
        self.grower.owners.on_refusal = lambda why: self._chronicle.emergency("CRITICAL", why)
        self._host_parameters = sum(p.numel() for p in task.model.parameters())
        self._tally = Tally()
        passes = self._total + self.grower.grows  # growth ends with one more
        self._test = rehearse(task, self._device, epochs=options.epochs, passes=passes)
        self._clock = WallClock()

    def _run_epoch(self) -> None:
        self._rolled_back = False
        every = self.options.boundary_every
        for raw in self._loader.steps(self.options.accumulate):
            self._train_on(move(raw, self._device))
            if every != "epoch" and self._steps % every == 0 and not self._rolled_back:
                self._pass_boundary()
            self._steer()
            if self._rolled_back or self._over():
                return
        ends = self._loader.epoch >= self.options.epochs and self._tally.steps > 0
        if self.options.boundary_every == "epoch" or ends:
            self._pass_boundary()
            self._steer()

    def _over(self) -> bool:
        return self._boundary >= self._total or self._ending is not None or self._is_stalled

    def _train_on(self, batch: Any) -> None:
        size = step_size(batch)
        if self._steps == 0:
            self._begin(parts_of(batch)[0])
        measures = self._accuracy.is_measured and self._is_last_step()
        train_step = self._accuracy.step if measures else self._train_step
        begun = time.perf_counter()
        loss = train_step(self.task.model, self._optimizer, batch)
        trained = time.perf_counter()
        accuracy = self._accuracy.of(batch) if measures else None
        self.grower.after_step(batch)
        self._steps += 1
        self._samples += size
        if self._guards_each_step:
            lost = float(loss)
            self._tally.add(lost, size, accuracy)
            self._guard(lost)
        else:
            self._tally.add(loss.double(), size, accuracy)
        self._control.heartbeat(self._steps, boundary=self._boundary)
        if self.grower.compiler.has_paused:
            self._chronicle.pauses(self.grower.compiler.take())
        self._tally.took(trained - begun, time.perf_counter() - begun)

    def _is_last_step(self) -> bool:
        """Whether the step to be taken is an epoch's or a boundary's last, as far as is known."""
        every = self.options.boundary_every
        return self._loader.is_at_end or (every != "epoch" and (self._steps + 1) % every == 0)

    def _heartbeat(self, **progress: Any) -> None:
        self._control.heartbeat(self._steps, boundary=self._boundary, **progress)

    def _begin(self, batch: Any) -> None:
        """Look at the first batch: find the sites, prove the kernels, count the host's cost."""
        if self.grower.grows:
            self.grower.prepare(batch)
            self._decider.warm(self.grower.policy, self.grower.look)
        self._macs_per_sample = training_macs(
            self.task.model, self.task.forward or default_forward, batch, self.task.loss
        )
        self._chronicle.note(
            "run_started",
            **start_record(self.task, self.options, self.grower, self._total),
            device=str(self._device),
            deterministic=self._deterministic,
            resumable="bitwise" if self._loader.stateful else None,
            host_parameters=self._host_parameters,
        )
        self._tally = Tally()  # its clock starts with the first step

    def _guard(self, loss: float) -> None:
        """Look at a loss. What is wrong is put right: by a cull, by going back; or told."""
        trouble = self._loss_guard.look(loss)
        if trouble is None:
            return
        trouble = f"{trouble} at step {self._steps}"
        executor = self.grower.executor
        if executor is not None and executor.trial is not None:
            seed = executor.trial.seed
            executor.cull(seed.id, trouble)
            self._chronicle.emergency("SEVERE", trouble, seed=seed.id)
            self._loss_guard.calm()
        else:
            self._recover(trouble)

    def _recover(
        self,
        trouble: str,
        *,
        least: Level = "SEVERE",
        request: int | None = None,
        may_fail: bool = True,
    ) -> None:
        """Go back to before the trouble and on at a lower rate; where that is no use, fail.

        `request` numbers trouble that was told to the run; at least `least` is done about it.
        """
        past = self._journal.emergency_rollbacks
        back = self._recovery.step_back(past, self._boundary, self._steps, least=least)
        if back.way is None and request is not None and not back.in_vain:
            kept = self._recovery.boundaries(self._history.records)
            self._chronicle.refuse(no_way_back(None, self._boundary, kept), request=request)
            return
        if back.way is None and not may_fail:
            self._chronicle.emergency(least, trouble, by="risk")
            return
        if back.way is None:
            raise LossError(f"{trouble}; {remedy(back.in_vain, self._steps)}")
        told, factor = request is not None, back.rate_factor
        self._chronicle.emergency(back.level, trouble, by=OPERATOR if told else "guard")
        cause: Cause = "emergency" if told else "guard"
        self._go_back(back.way, cause=cause, reason=trouble, rate_factor=factor, request=request)

    # -- boundaries ----------------------------------------------------------------------------

    def _pass_boundary(self) -> None:
        tally, elapsed_s = self._tally, self._tally.elapsed_s
        self._tally = Tally()
        training = tally.metrics()
        if not self._guards_each_step:
            self._guard(training["training_loss"])
            if self._rolled_back:
                return
        self._boundary += 1
        self._operator.obey(self.grower, self._boundary)
        try:
            report = self.grower.boundary(self.task.validation_loader, **training)
        except DecisionHungError as hung:
            self._ask_again(str(hung))
            return
        self._chronicle.carried_out(self._command_id(), report, self.grower.executor)
        self._record_boundary(report, tally, elapsed_s)
        self._chronicle.close_due(self.grower.executor, report.metrics)
        self._chronicle.swaps(self._kernels.boundary(self.grower))
        if self._chronicle.asks_to_save() or self._boundary % self.options.checkpoint_every == 0:
            self._save()
        self._decider.explain()
        if (trouble := self._decider.take_trouble()) is not None:
            self._recover(trouble, may_fail=False)

    def _ask_again(self, reason: str) -> None:
        """Go back to before a decision that hung, and ask a policy that has not."""
        way = self._recovery.before(self._steps)
        assert way is not None
        self._decider.start_anew()
        if self._policy is None:
            self.grower.policy = self.options.make_policy()
        self._go_back(way, cause="hang", reason=reason)

    def _record_boundary(self, report: BoundaryReport, tally: Tally, elapsed_s: float) -> None:
        position = self._position()
        self._chronicle.transitions(report.transitions)
        entry = boundary_record(
            report,
            self.grower,
            tally,
            elapsed_s,
            host_parameters=self._host_parameters,
            overhead_ratio=self._overhead.add(tally),
            is_epoch=self.options.boundary_every == "epoch",
            device=self._device,
        )
        self._chronicle.note("boundary", **entry)
        self._history.append({**position, **report.metrics, "parameters": entry["parameters"]})
        self._look_for_a_stall()

    def _look_for_a_stall(self) -> None:
        """End the run early once its primary metric has not become better for long enough."""
        reason = stall(self._history.records, self.task, patience=self.options.patience)
        if reason is not None:
            self._is_stalled = True
            self._chronicle.note("early_stop", reason=reason)

    def _command_id(self) -> str:
        return self._chronicle.command_id(f"c{self._boundary}")

    def _finish(self) -> None:
        self._decider.finish()
        executor = self.grower.executor
        if executor is not None:
            self._chronicle.transitions(self.grower.finish(self.task.validation_loader))
            metrics = self.grower.history[-1] if self.grower.history else {}
            self._chronicle.close_all(executor, metrics)

    # -- steering ------------------------------------------------------------------------------

    def _steer(self) -> None:
        paused = False
        while True:
            for steer in self._control.poll():
                if steer.kind in ("stop", "drain"):
                    self._ending = "stopped" if steer.kind == "stop" else "drained"
                elif steer.kind in ("pause", "resume"):
                    paused = steer.kind == "pause"
                    self._chronicle.note(f"{steer.kind}d")
                elif steer.kind == "cull" or steer.level == "MINOR":
                    self._operator.ask(steer)
                elif not self._journal.met(steer.request):
                    self._answer(steer)
            if not paused or self._ending is not None:
                return
            self._heartbeat(paused=True)
            self._control.wait(0.2)

    def _answer(self, steer: Steer) -> None:
        """Do at once what cannot wait. A frozen run is held by its flag: it need only be told."""
        if steer.kind == "rollback":
            self._roll_back(steer)
        elif steer.level == "CRITICAL":
            reason, request = steer.reason, steer.request
            self._chronicle.emergency("CRITICAL", reason, by=OPERATOR, request=request)
        elif steer.level is not None:
            self._recover(steer.reason, least=steer.level, request=steer.request)

    # -- saved and restored --------------------------------------------------------------------

    def _save(self) -> None:
        self._recovery.save(self._steps, self._state)
        in_memory = self._recovery.bytes_in_memory
        for written in self._recovery.take_written():
            self._chronicle.note("checkpoint", **written.to_json(), memory_bytes=in_memory)

    def _state(self) -> dict[str, Any]:
        return {
            "grower": self.grower.state_dict(),
            "chronicle": self._chronicle.state_dict(),
            "decider": self._decider.state_dict(),
            "loader": self._loader.state_dict(),
            "random": global_random.capture(),
            "steps": self._steps,
            "boundary": self._boundary,
            "samples": self._samples,
            "host_s": self._overhead.host_s,
            "total_s": self._overhead.total_s,
            "macs_per_sample": self._macs_per_sample,
            "history": self._history.state(),
            "is_stalled": self._is_stalled,
            "loss_guard": self._loss_guard.state_dict(),
            "tally": self._tally.to_state(),
            "journal_seq": self._journal.last_seq,
            "machine": machine(self._device),
            "wall_s": self._clock.total(),
        }

    def _roll_back(self, steer: Steer) -> None:
        """Go back to the newest state of an earlier boundary, or of the one asked for or before."""
        wanted = steer.boundary
        # a boundary that a resumed run is about to repeat was there when it was asked for
        ahead = wanted is not None and not self._journal.repeats(wanted) and wanted > self._boundary
        way = None
        if not ahead:
            way = self._recovery.before(step_after(wanted, self._steps, self._history.records))
        if way is None:
            kept = self._recovery.boundaries(self._history.records)
            self._chronicle.refuse(no_way_back(wanted, self._boundary, kept), request=steer.request)
            return
        reason = "asked for by an operator"
        self._go_back(way, cause="operator", reason=reason, request=steer.request)

    def _go_back(
        self,
        way: WayBack,
        *,
        cause: Cause,
        reason: str,
        rate_factor: float = 1.0,
        request: int | None = None,
    ) -> None:
        """Go back to a state. The seeds planted since are gone; their reports say ABORTED.

        It is recorded first: should the process die before all is done, the next one finishes it.
        """
        asked = time.perf_counter()
        self._recovery.wait()  # on disk before the journal names it
        state, started = way.state, time.perf_counter()
        executor = self.grower.executor
        if executor is not None:
            self._chronicle.abort_after(executor, state["boundary"])
        self._chronicle.note(
            "rollback",
            to_boundary=state["boundary"],
            to_step=state["steps"],
            cause=cause,
            reason=reason,
            source=way.source,
            rate_factor=rate_factor,
            request=request,
        )
        self._recovery.drop_after(state["steps"])
        self.grower.ungrow()
        self._load(state)
        self._go_another_way(rate_factor)
        self._rolled_back = True
        self._chronicle.note(
            "rolled_back",
            source=way.source,
            ms=way.taken_ms + 1e3 * (time.perf_counter() - started),
            waited_ms=1e3 * (started - asked),
        )

    def _go_another_way(self, rate_factor: float) -> None:
        """See to it that what a guard stopped does not come again just so."""
        if rate_factor != 1.0:
            self.grower.slow_down(rate_factor)
            global_random.seed_everything(self.options.seed + self._journal.rollbacks)

    def _resume(self) -> None:
        """Load the newest checkpoint and prepare to repeat what was journaled after it."""
        rollback = self._journal.last_rollback
        state, undone = self._recovery.newest(rollback)
        if state is None:
            self._journal.announce_again(self._journal.resume(0))
            return
        self._load(state)
        if undone and rollback is not None:
            self._go_another_way(rollback["rate_factor"])
        self._clock = WallClock(state["wall_s"])
        self._journal.announce_again(self._journal.resume(state["journal_seq"]))
        reason = machine_difference(state["machine"], self._device) or self._loader.other_batches()
        self._chronicle.note(
            "resumed",
            from_boundary=self._boundary,
            bitwise=reason is None,
            reason=reason or "the same machine, and the training loader repeats itself",
        )

    def _load(self, state: dict[str, Any]) -> None:
        self.grower.load_state_dict(state["grower"])
        self._chronicle.load_state_dict(state["chronicle"])
        self._decider.load_state_dict(state["decider"])
        self._loader.load_state_dict(state["loader"])
        for name in _COUNTED:
            setattr(self, f"_{name}", state[name])
        self._overhead = Overhead(state["host_s"], state["total_s"])
        self._history.load(state["history"])
        self._tally = Tally(**state["tally"])
        self._loss_guard.load_state_dict(state["loss_guard"])
        global_random.restore(state["random"])

    def _position(self) -> dict[str, Any]:
        return {"boundary": self._boundary, "step": self._steps, "epoch": self._loader.epoch}

    def _outcome(self, state: State, test: Evaluation | None) -> Outcome:
        told, macs = self._chronicle.told, self._macs_per_sample * self._samples
        wall_s = self._clock.total()
        return outcome_of(state, self.grower, self._history.records, told, test, wall_s, macs)
