"""Runs that are watched around every germination, blend and cull, and ways to do these badly."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain, islice
from statistics import fmean, median
from time import thread_time
from typing import Any, Literal

import torch
from torch import Tensor, nn

from esper_async.kasmina import executor, trial
from esper_async.kasmina.kernels.graft import FullyOnHook
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate, Seed
from esper_async.kasmina.shadow import start_shadow
from esper_async.kasmina.stage import ON_TRIAL, Stage
from esper_async.kasmina.trial import Trial
from esper_async.study.bench.benchmark import replaced
from esper_async.study.bench.planting import PlantOnce
from esper_async.study.bench.tournament_runs import one_thread
from esper_async.tamiyo.policies import Policy, make_policy
from esper_async.tasks.mnist1d import make_task
from esper_async.tasks.recipe import Schedule
from esper_async.tolaria.boundary_report import BoundaryReport
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.lr import LRController
from esper_async.tolaria.schedule import make_scheduler
from esper_async.tolaria.training import make_train_step

Kind = Literal["germination", "blend", "cull in training", "cull on trial"]
Arm = Literal["static", "heuristic", "random", "naive", "one that helps", "refused", "noise"]
SITE, HELPS, NOISE, AT = "stem.1", "BP009", "PL002", 32
_DRILLS: dict[Arm, GrowthOptions] = {
    "naive": GrowthOptions(dwell_steps=1, g2_margin=-1e9, g4_margin=-1e9, drill=True),
    "one that helps": GrowthOptions(dwell_steps=96, drill=True),
    "refused": GrowthOptions(dwell_steps=32, g2_margin=1e9, embargo_boundaries=0, drill=True),
    "noise": GrowthOptions(
        dwell_steps=32, ramp_boundaries=1, window_boundaries=12, max_windows=1,
        g2_margin=-1e9, g4_margin=1e9, drill=True,
    ),
}  # fmt: skip
"""What is waived so that something happens soon, and always; the other arms waive nothing."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How hosts are trained that are compared: a boundary comes every so many steps."""

    schedule: Schedule
    rate: float
    boundaries: int
    boundary_steps: int


@dataclass(frozen=True, slots=True)
class Plan:
    """One run on the 858-parameter MNIST-1D host; an epoch of it has 32 steps."""

    arm: Arm
    seed: int
    recipe: Recipe


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens at a boundary.

    `changed` says whether the network's output, or a tensor of it, is bitwise another after the
    boundary than before; None where a seed joined or left the forward pass there as well.
    """

    kind: Kind
    boundary: int
    changed: bool | None


@dataclass(slots=True)
class Watched:
    """What was seen of a run: its events, and four series with a value a boundary.

    The validation loss at it (nats); and of the steps before it the mean training loss (nats), the
    mean gradient norm of the host, and the median step, growth included (thread CPU time, ms).
    """

    events: list[Event] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)
    training: list[float] = field(default_factory=list)
    gradient: list[float] = field(default_factory=list)
    step_ms: list[float] = field(default_factory=list)


def watch(plan: Plan) -> Watched:
    """Train a run to its end and return what was seen."""
    recipe = plan.recipe
    task = make_task(seed=plan.seed, learning_rate=recipe.rate, schedule=recipe.schedule)
    optimizer = task.make_optimizer(task.model.parameters())
    train = make_train_step(task)
    growth = _DRILLS.get(plan.arm, GrowthOptions())
    grower = Grower(
        task.model,
        optimizer,
        state_dir=None,
        loss=task.loss,
        policy=_policy(plan),
        seed=plan.seed,
        train_step=train,
        growth=growth,
        boundaries=recipe.boundaries,
        blueprints=[HELPS] if plan.arm == "refused" else None,
        rates=LRController(
            optimizer,
            warmup_steps=growth.warmup_steps,
            scheduler=make_scheduler(task, optimizer, boundaries=recipe.boundaries, steps=None),
        ),
        progress=lambda *_: None,
    )
    found = Watched()
    sample = next(iter(task.validation_loader))[0]
    host = list(task.model.parameters())
    task.model.train()
    with one_thread(), untrained_at_full_strength() if plan.arm == "naive" else nullcontext():
        batches = chain.from_iterable(iter(lambda: task.train_loader, None))
        for _ in range(recipe.boundaries):
            losses, norms, took = [], [], []
            for batch in islice(batches, recipe.boundary_steps):
                began = thread_time()
                with grower.step(batch):
                    losses.append(float(train(task.model, optimizer, batch)))
                took.append(1e3 * (thread_time() - began))
                norms.append(_norm(host))
            before = _state(task.model, sample)
            report = grower.boundary(task.validation_loader)
            same = _same(before, _state(task.model, sample))
            found.events += _events(report, changed=not same)
            found.validation.append(report.metrics["validation_loss"])
            found.training.append(fmean(losses))
            found.gradient.append(fmean(norms))
            found.step_ms.append(median(took))
    return found


def _policy(plan: Plan) -> Policy:
    planted = {"one that helps": HELPS, "noise": NOISE}
    if plan.arm in planted:
        return PlantOnce(Candidate(SITE, planted[plan.arm]), boundary=AT)
    names = {"naive": "heuristic", "refused": "random"}
    return make_policy(names.get(plan.arm, plan.arm), plan.seed)


def _events(report: BoundaryReport, *, changed: bool) -> list[Event]:
    """Return one event for each kind of thing that happened at a boundary."""
    kinds: set[Kind] = set()
    for each in report.transitions:
        if each.target is Stage.GERMINATED:
            kinds.add("germination")
        elif each.target is Stage.BLENDING:
            kinds.add("blend")
        elif each.target is Stage.CULLED:
            kinds.add("cull on trial" if each.source in ON_TRIAL else "cull in training")
    apart = not kinds & {"blend", "cull on trial"}
    return [Event(kind, report.boundary, changed if apart else None) for kind in sorted(kinds)]


def _norm(parameters: Sequence[nn.Parameter]) -> float:
    known = [each.grad for each in parameters if each.grad is not None]
    return float(torch.stack(torch._foreach_norm(known)).norm())


def _state(model: nn.Module, sample: Tensor) -> dict[str, Tensor]:
    """Return copies of all tensors of a network, and its output for a sample."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        output = model(sample)
    model.train(was_training)
    return {name: tensor.clone() for name, tensor in model.state_dict().items()} | {"": output}


def _same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


# -- done badly ------------------------------------------------------------------------------------

_whole_trial, _whole_release = Trial.__init__, Seed.release


def _begin_anew(seed: Seed) -> None:
    """Draw a kernel as a layer is usually drawn: its change of the activation is not near 0."""
    for module in seed.graft.kernel.modules():
        reset = getattr(module, "reset_parameters", None)
        if reset is not None:
            reset()


@contextmanager
def untrained_at_full_strength() -> Iterator[None]:
    """Insert naively: what goes on trial is drawn anew, and in the forward pass at once."""

    def start(self: Trial, branch: Any, seed: Seed, **given: Any) -> None:
        _begin_anew(seed)
        _whole_trial(self, branch, seed, **given)

    with (
        replaced(f"{trial.__name__}.Trial.__init__", start),
        replaced(f"{trial.__name__}.ramp", lambda *_: 1.0),
    ):
        yield


@contextmanager
def in_the_forward_pass_from_germination() -> Iterator[None]:
    """Put a seed into the network itself, drawn anew, from its germination to its end."""
    handles: dict[str, Any] = {}

    def start(model: nn.Module, seed: Seed) -> None:
        start_shadow(model, seed)
        _begin_anew(seed)
        site = model.get_submodule(seed.site.path)
        handles[seed.id] = site.register_forward_hook(FullyOnHook(seed.graft))

    def release(seed: Seed, boundary: int) -> None:
        if seed.id in handles:
            handles.pop(seed.id).remove()
        _whole_release(seed, boundary)

    with (
        replaced(f"{executor.__name__}.start_shadow", start),
        replaced("esper_async.kasmina.seed.Seed.release", release),
    ):
        yield


def taken_out_alone(self: Trial) -> list[str]:
    """Withdraw a trial without taking over its twin: the host stays as it came to need the seed."""
    self.branch.detach(self.seed)
    self.keep()
    return []
