"""A run with many sites whose decisions are timed: CPU by thread, wall-clock, whole boundary.

Eight blueprints are certified; the policy is offered all forty-two of the live tiers at every site,
as a run with every certificate would offer them, and what it plants of the others is left out.
"""

import gc
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from esper_async.karn.catalogue import Catalogue
from esper_async.kasmina.legal import MemoryStore
from esper_async.kasmina.options import GrowthOptions
from esper_async.study.bench.benchmark import replaced
from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tamiyo.graph.builder import GraphBuilder, GraphState
from esper_async.tamiyo.network import PolicyNetwork
from esper_async.tamiyo.policies.graph import GraphPolicy
from esper_async.tamiyo.view import OfferedPlacements, Placement, View
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.grower import Grower
from esper_async.tolaria.options import RunOptions
from esper_async.tolaria.task import Task

CERTIFIED = ["BP002", "BP003", "BP009", "BP011", "BP014", "BP015", "BP020", "BP021"]
OFFERED = tuple(f"BP{number:03}" for number in range(1, 43))
_WIDTH, _LENGTH = 16, 8
_WARM_BOUNDARIES = 3
_GROWTH = GrowthOptions(
    dwell_steps=4,
    ramp_boundaries=1,
    window_boundaries=1,
    embargo_boundaries=1,
    parameter_budget=1e3,
    max_seeds=3,
)


class ChainHost(nn.Module):
    """So many linear layers in a row, over sequences (N, T, D); each of them is a site."""

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(_WIDTH, _WIDTH) for _ in range(sites))
        self.head = nn.Linear(_WIDTH, 4)

    def forward(self, hidden: Tensor) -> Tensor:
        """Map sequences (N, T, D) to logits (N, 4)."""
        for layer in self.layers:
            hidden = hidden + torch.tanh(layer(hidden))
        logits: Tensor = self.head(hidden.mean(1))
        return logits


@dataclass(slots=True)
class Timings:
    """What each boundary of a run took, in ms; the first ones are left out.

    `view` is the CPU time of putting together what the policy is shown. A step goes from there to
    the command: `step_cpu` is its CPU time on every thread it ran on, `tensors` the part of it that
    made the graph's tensors, `step_wall` the step by the clock. `boundary` is all of the boundary
    but its validation.
    """

    view: list[float] = field(default_factory=list)
    tensors: list[float] = field(default_factory=list)
    step_cpu: list[float] = field(default_factory=list)
    step_wall: list[float] = field(default_factory=list)
    boundary: list[float] = field(default_factory=list)
    acted: int = 0


class _TimedBuilder(GraphBuilder):
    """Notes what each graph's tensors took."""

    def __init__(self) -> None:
        super().__init__()
        self.taken_ms: list[float] = []

    def state(self, view: View) -> GraphState:
        """Make the tensors of a view, timed."""
        started = time.thread_time()
        found = super().state(view)
        self.taken_ms.append(1e3 * (time.thread_time() - started))
        return found


class _TimedPolicy(GraphPolicy):
    """The graph policy, asked about forty-two blueprints; notes its CPU time."""

    name: ClassVar[str] = "gnn"

    def __init__(self, network: PolicyNetwork) -> None:
        super().__init__(0, network, version="timed")
        self.builder = self._timed_builder = _TimedBuilder()
        self.timings = Timings()
        self.last_cpu_ms = 0.0
        known = {record.id: record for record in Catalogue().records}
        self._others = [known[name] for name in OFFERED if name not in CERTIFIED]
        self._certified_ones: tuple[Placement, ...] = ()
        self._every: tuple[Placement, ...] = ()
        self._sites: NDArray[np.str_] = np.array([], dtype=np.str_)

    def decide(self, view: View) -> Decision:
        """Decide on the padded view, and leave out what has no certificate."""
        padded = self._padded(view)
        started = time.thread_time()
        decision = super().decide(padded)
        self.last_cpu_ms = 1e3 * (time.thread_time() - started)
        self.timings.tensors.append(self._timed_builder.taken_ms[-1])
        return self._certified(decision)

    def warm(self, view: View) -> None:
        """Warm the sizes that will be asked about."""
        super().warm(self._padded(view))

    def _padded(self, view: View) -> View:
        """Offer the others, too, wherever there is an offer; of one list, as a run does."""
        offered = view.placements
        if not isinstance(offered, OfferedPlacements):
            return replace(view, blueprints=OFFERED)
        if self._certified_ones is not offered.every:
            self._list(offered.every)
        certified = len(self._certified_ones)
        open_sites = np.unique(self._sites[offered.places])
        others = certified + np.flatnonzero(np.isin(self._sites[certified:], open_sites))
        places = np.concatenate([offered.places, others])
        return replace(view, placements=OfferedPlacements(self._every, places), blueprints=OFFERED)

    def _list(self, certified: tuple[Placement, ...]) -> None:
        sites = dict.fromkeys((each.site, each.depth) for each in certified)
        self._certified_ones = certified
        self._every = (
            *certified,
            *(
                Placement(name, depth, record.id, "residual", 50 * (record.stage + 1))
                for name, depth in sites
                for record in self._others
            ),
        )
        self._sites = np.array([each.site for each in self._every])

    def _certified(self, decision: Decision) -> Decision:
        if not isinstance(decision.command, Germinate):
            return decision
        kept = tuple(c for c in decision.command.candidates if c.blueprint in CERTIFIED)
        return replace(decision, command=Germinate(kept) if kept else NoOp())


class _TimedGrower(Grower):
    """Notes what a decision took: on this thread, on the controller's, and by the clock."""

    _looked_cpu_s = _looked_at_s = 0.0

    def look(self) -> View:
        """Put the view together, timed; a step begins here."""
        cpu = time.thread_time()
        view = super().look()
        self._looked_cpu_s, self._looked_at_s = time.thread_time(), time.perf_counter()
        self._timings.view.append(1e3 * (self._looked_cpu_s - cpu))
        return view

    def _decide_here(self) -> Decision:
        decision = super()._decide_here()
        here_ms = 1e3 * (time.thread_time() - self._looked_cpu_s)
        timings = self._timings
        timings.step_wall.append(1e3 * (time.perf_counter() - self._looked_at_s))
        timings.step_cpu.append(here_ms + self._timed_policy.last_cpu_ms)
        timings.acted += not isinstance(decision.command, NoOp)
        return decision

    @property
    def _timed_policy(self) -> _TimedPolicy:
        assert isinstance(self.policy, _TimedPolicy)
        return self.policy

    @property
    def _timings(self) -> Timings:
        return self._timed_policy.timings


def timed_run(*, sites: int, boundaries: int) -> Timings:
    """Train a chain of `sites` layers while another process is busy; return what was timed."""
    torch.manual_seed(0)
    policy = _TimedPolicy(PolicyNetwork())
    generator = torch.Generator().manual_seed(1)
    data = [
        (
            torch.randn(8, _LENGTH, _WIDTH, generator=generator),
            torch.randint(0, 4, (8,), generator=generator),
        )
        for _ in range(2)
    ]
    told: list[dict[str, Any]] = []
    with _busy(), replaced("esper_async.tolaria.engine.Grower", _TimedGrower):
        engine = Engine(
            Task(
                model=ChainHost(sites),
                train_loader=data,
                validation_loader=data[:1],
                loss=nn.functional.cross_entropy,
            ),
            RunOptions(
                epochs=boundaries + _WARM_BOUNDARIES, policy="gnn", threads=1, growth=_GROWTH,
                checkpoint_every=10**6,
            ),
            certificates=MemoryStore(),
            blueprints=CERTIFIED,
            policy=policy,
            listener=lambda record: told.append(dict(record)),
        )  # fmt: skip
        gc.freeze()  # as the training process does
        try:
            engine.run()
        finally:
            gc.unfreeze()
            engine.close()
    found = policy.timings
    rows = [record["boundary_ms"]["total"] for record in told if record["kind"] == "boundary"]
    return Timings(
        view=found.view[-len(found.step_cpu) :][_WARM_BOUNDARIES:],
        tensors=found.tensors[_WARM_BOUNDARIES:],
        step_cpu=found.step_cpu[_WARM_BOUNDARIES:],
        step_wall=found.step_wall[_WARM_BOUNDARIES:],
        boundary=rows[_WARM_BOUNDARIES:],
        acted=found.acted,
    )


@contextmanager
def _busy() -> Iterator[None]:
    """Keep another process busy, as a training machine's other core is."""
    child = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        child.kill()
        child.wait()
