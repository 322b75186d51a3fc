"""The training process of one run: engine, link to the supervisor, bridge to the bus."""

import gc
import json
import os
import time
import traceback
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import structlog

from esper_async.kasmina.call import BatchError
from esper_async.kasmina.compiling.choice import CompileError
from esper_async.kasmina.distillation import TeacherRefusedError
from esper_async.kasmina.evaluation import EmptyLoaderError, SampleLoss
from esper_async.kasmina.kernels import KernelRefusedError
from esper_async.kasmina.sites import NoSiteError
from esper_async.leyline import StateForm, load_signer
from esper_async.oona.bridge import Bridge, BridgeReport
from esper_async.runtime.child_main import ChildLink
from esper_async.runtime.logging import configure_logging
from esper_async.tamiyo.desk_book import desk_path
from esper_async.tamiyo.errors import PolicyFileError
from esper_async.tamiyo.policies import UnknownPolicyError
from esper_async.tamiyo.policies.learned import FeatureVersionError
from esper_async.tamiyo.published import registry_path
from esper_async.tolaria import global_random
from esper_async.tolaria.checkpoint_file import UnreadableCheckpointError
from esper_async.tolaria.comparison import ComparisonInterrupted, compare
from esper_async.tolaria.compiled_kernels import ForgeKernels
from esper_async.tolaria.control import LASTING, Steer, steer_of
from esper_async.tolaria.dispatch import watch_dispatch
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.forge_client import ForgeClient
from esper_async.tolaria.messages import (
    Primary,
    decision_of,
    emergency_of,
    field_report_of,
    form_of,
    system_state_of,
    telemetry_of,
)
from esper_async.tolaria.options import RunChangedError, options_from_run
from esper_async.tolaria.outcome import Outcome, parameters_of
from esper_async.tolaria.policy_choice import FEATURES, PolicyPlaces
from esper_async.tolaria.policy_updates import PolicyUpdates
from esper_async.tolaria.requests import accepted
from esper_async.tolaria.result import write_result
from esper_async.tolaria.task import Task, TaskError
from esper_async.tolaria.task_source import load_task
from esper_async.urza import Library

_LOG = structlog.get_logger(__name__)

EXIT_DONE = 0
EXIT_REFUSED = 4
BRIDGE_DEADLINE_S = 6.0
DRAINED_DEADLINE_S = 1.0
"""Those who acknowledge stop before what they listen to: it would be waited for in vain."""
_REFUSALS = (
    TaskError,
    NoSiteError,
    BatchError,
    EmptyLoaderError,
    TeacherRefusedError,
    UnknownPolicyError,
    FeatureVersionError,
    PolicyFileError,
    CompileError,
    UnreadableCheckpointError,
    RunChangedError,
    KernelRefusedError,
)


class LinkControl:
    """Steering through the supervisor's link; the emergency freeze is its shared flag.

    `accepted` is what operators asked for before: all of it, since an earlier process may have died
    before it came to it.
    """

    def __init__(self, link: ChildLink, accepted: Sequence[Steer] = ()) -> None:
        self._link = link
        self._accepted = list(accepted)
        self._held = False
        self._paused = False
        self._ending = False

    def poll(self) -> Sequence[Steer]:
        """Return the requests since the last call, the freeze as a pause.

        While the flag is up nothing else lets the run go on.
        """
        steers, self._accepted = self._accepted, []
        for request in self._link.requests():
            if request in ("pause", "resume"):
                self._held = request == "pause"
            else:
                steers.append(self._steer(request, request.fields))
        paused = self._held or self._link.frozen
        if paused != self._paused:
            self._paused = paused
            steers.append(Steer("pause" if paused else "resume"))
        if self._link.stop_requested and not self._ending:
            self._ending = True
            if not any(steer.kind in ("stop", "drain") for steer in steers):
                steers.append(Steer("drain"))
        return steers

    def heartbeat(self, step: int, **progress: Any) -> None:
        """Tell the supervisor that a step was reached."""
        self._link.heartbeat(step, **progress)

    def wait(self, timeout_s: float) -> None:
        """Sleep while paused, less if a stop is requested."""
        self._link.wait_for_stop(timeout_s)

    def _steer(self, name: str, fields: Mapping[str, Any]) -> Steer:
        if name == "stop":
            self._ending = True
            return Steer("stop" if fields.get("final") else "drain")
        kind = next((kind for kind in LASTING if kind == name), None)
        if kind is None:
            raise ValueError(f"the supervisor asked for {name!r}, which no run can do")
        return steer_of(kind, fields)


class Teller:
    """Sends each of the run's records to the bus: what may be dropped, and what may not.

    `loss_unit` is "nats", or "loss" for a loss whose values are in a unit of its own.
    """

    def __init__(
        self, bridge: Bridge, name: str, primary: Primary | None = None, *, loss_unit: str = "loss"
    ) -> None:
        self._bridge = bridge
        self._name = name
        self._primary = primary
        self._loss_unit = loss_unit
        self._form: StateForm | None = None

    def tell(self, record: Mapping[str, Any]) -> None:
        """Publish one record."""
        kind = record["kind"]
        if kind == "field_report":
            self._bridge.spool(field_report_of(record))
        elif kind == "decision":
            self._bridge.spool(decision_of(record))
        elif kind == "emergency":
            self._bridge.spool(emergency_of(record))
        elif kind == "boundary":
            if self._form is None:
                self._form = form_of(record["run"], self._name, self._primary)
            self._bridge.offer(system_state_of(record, form=self._form))
        self._bridge.offer(telemetry_of(record, loss_unit=self._loss_unit))


def train(link: ChildLink, *, run_dir: str, state_dir: str, redis_url: str, key_path: str) -> int:
    """Train the run in `run_dir` to its end, or until asked to stop; the target of its child.

    Returns 0 when the run ended or was drained, 4 when its task cannot be trained; the reason is
    in `result.json`. Anything else ends the process as it happens, and it is started again.
    """
    configure_logging(json=True)  # standard error is the run's log.jsonl
    folder = Path(run_dir)
    document = json.loads((folder / "run.json").read_text())
    run_id, config = document["id"], document["config"]
    signer = load_signer(Path(key_path))
    bridge = Bridge(redis_url, folder / "spool", signer, f"tolaria/{run_id}")
    watch_dispatch(bridge, run_id)
    bridge.start()
    library = Library(Path(state_dir) / "urza", actor=f"run {run_id}", signer=signer)
    try:
        state = Path(state_dir)
        policies = PolicyPlaces(desk_path(state), registry_path(state), signer)
        return _train(link, folder, run_id, config, bridge, library, policies)
    except _REFUSALS as error:
        result = {"state": "failed", "error": str(error), "ended_at": time.time()}
        write_result(folder, result)
        if os.environ.get("ESPER_TRACEBACK"):
            traceback.print_exc()
        return EXIT_REFUSED
    finally:
        library.close()
        patience_s = DRAINED_DEADLINE_S if link.stop_requested else BRIDGE_DEADLINE_S
        _tell_end(bridge.close(patience_s))


def _tell_end(report: BridgeReport) -> None:
    """Log what the bus did not get; what is unacknowledged waits on disk for the next owner."""
    if not report.clean:
        _LOG.warning(
            "bus_did_not_get_everything",
            dropped=report.dropped,
            unacknowledged=report.unacknowledged,
            error=report.error or None,
        )


def _train(
    link: ChildLink,
    folder: Path,
    run_id: str,
    config: Mapping[str, Any],
    bridge: Bridge,
    library: Library,
    policies: PolicyPlaces,
) -> int:
    options = options_from_run(config)
    control = LinkControl(link, accepted(folder))

    def make_task() -> Task:
        # a factory may draw weights and splits from the global generators: the same ones each time
        global_random.seed_everything(options.seed)
        return load_task(config["run"]["task"], config["run"]["options"], seed=options.seed)

    def progress(done: int, total: int, what: str) -> None:
        link.heartbeat(0, phase="proving", done=done, total=total, what=what)

    task = make_task()
    primary = Primary(task.primary_key, task.larger_is_better)
    loss_unit = "nats" if SampleLoss(task.loss).in_nats else "loss"
    updates = None
    if options.policy in FEATURES:
        updates = PolicyUpdates(options.policy, options.seed, policies, folder)
    teller = Teller(bridge, options.name, primary, loss_unit=loss_unit)
    link.heartbeat(0, phase="starting")  # the first: until here the start's longer patience holds
    kernels = ForgeKernels(bridge, library, run_id)
    engine = Engine(
        task,
        options,
        run_id=run_id,
        folder=folder,
        control=control,
        listener=teller.tell,
        certificates=library,
        supply=ForgeClient(
            bridge,
            library,
            run_id,
            progress=progress,
            stop_requested=lambda: link.stop_requested,
        ),
        progress=progress,
        kernels=kernels,
        bus_backlog=lambda: bridge.backlog,
        policy=None if updates is None else updates.policy,
        updates=updates,
    )
    # a full collection looks at all that torch has loaded, in the middle of some step
    gc.freeze()
    with closing(kernels), closing(engine):
        outcome = engine.run()
        if outcome.state == "drained":
            return EXIT_DONE
        rows: list[dict[str, Any]] = []
        if options.baselines and outcome.state == "completed":
            try:
                rows = compare(task, outcome, options, make_task, control=control)
            except ComparisonInterrupted as interruption:
                if interruption.state == "drained":
                    return EXIT_DONE
        engine.refuse_unmet(accepted(folder))
        result = _result(task, outcome, rows)
        engine.record_end(result)
    write_result(folder, result)
    return EXIT_DONE


def _result(task: Task, outcome: Outcome, rows: list[dict[str, Any]]) -> dict[str, Any]:
    test = outcome.test
    return {
        "state": outcome.state,
        "error": None,
        "test": None if test is None else {"loss": test.loss, **test.metrics},
        "parameters": parameters_of(task.model),
        "wall_s": outcome.wall_s,
        "compute": outcome.compute,
        "comparison": rows,
        "ended_at": time.time(),
    }
