"""`Grower` in a loop that somebody else wrote."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from esper_async import Grower
from esper_async.kasmina.evaluation import EmptyLoaderError
from esper_async.kasmina.kernels.graft import grafts_of
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.ownership import OwnershipError
from esper_async.kasmina.planting import CommandRefusedError
from esper_async.kasmina.seed import Candidate
from esper_async.kasmina.stage import Stage
from esper_async.tamiyo.command import Cull, Germinate, NoOp
from esper_async.tolaria.task import Task
from tests.growth_hosts import differing
from tests.tolaria.growth_tasks import BLUEPRINTS, QUICK, listed, regression


def train_step(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
    inputs, targets = batch
    optimizer.zero_grad()
    loss = F.cross_entropy(model(inputs), targets)
    loss.backward()
    optimizer.step()
    return loss.detach()


class Loop:
    """A plain training loop with a grower in it."""

    def __init__(self, task: Task | None = None, **changes: Any) -> None:
        self.task = task or listed()
        self.optimizer = torch.optim.Adam(self.task.model.parameters(), lr=1e-2)
        settings: dict[str, Any] = {
            "policy": "heuristic",
            "seed": 3,
            "train_step": train_step,
            "growth": GrowthOptions(**QUICK),
            "blueprints": BLUEPRINTS,
            "state_dir": None,
        }
        self.grower = Grower(
            self.task.model, self.optimizer, loss=self.task.loss, **{**settings, **changes}
        )

    def epoch(self) -> Any:
        for batch in self.task.train_loader:
            with self.grower.step(batch):
                train_step(self.task.model, self.optimizer, batch)
        return self.grower.boundary(self.task.validation_loader)

    def stages(self) -> list[Stage]:
        executor = self.grower.executor
        return [] if executor is None else [seed.stage for seed in executor.seeds.values()]


def test_a_network_grows_in_a_plain_loop() -> None:
    torch.manual_seed(0)
    loop = Loop()
    moves = [move for _ in range(14) for move in loop.epoch().transitions]
    loop.grower.finish(loop.task.validation_loader)

    assert Stage.FOSSILIZED in [move.target for move in moves]
    assert grafts_of(loop.task.model)
    assert all(move.gate is not None for move in moves if move.target is Stage.BLENDING)


def test_a_report_says_what_was_decided_and_how_long_it_took() -> None:
    loop = Loop()
    reports = [loop.epoch() for _ in range(4)]
    assert [report.boundary for report in reports] == [1, 2, 3, 4]
    assert all(isinstance(report.decision.command, NoOp) for report in reports[:3])
    assert isinstance(reports[3].decision.command, Germinate)
    assert set(reports[3].duration_ms) == {"validation", "assembly", "decision", "apply", "total"}
    assert set(reports[3].metrics) == {"validation_loss"}


def test_without_a_train_step_benefit_is_estimated_and_gated_at_twice_the_margin() -> None:
    loop = Loop(train_step=None, growth=GrowthOptions(**{**QUICK, "g4_margin": 1e-9}))
    for _ in range(12):
        loop.epoch()
    assert loop.grower.executor is not None
    judged = [s for s in loop.grower.executor.seeds.values() if s.benefit_vs_twin is not None]
    assert judged
    assert all(seed.benefit_vs_twin.estimated for seed in judged if seed.benefit_vs_twin)
    (gate,) = [gate for gate in judged[0].gates if gate.name == "G4"]
    assert gate.numbers["margin"] == pytest.approx(2e-9)


def test_a_step_that_raises_is_not_counted() -> None:
    loop = Loop()
    batch = loop.task.train_loader[0]  # type: ignore[index]
    with pytest.raises(KeyError), loop.grower.step(batch):
        raise KeyError
    assert loop.grower.executor is not None
    assert loop.grower.executor.steps == 0


def test_the_models_mode_is_the_callers_around_a_boundary() -> None:
    for training in (True, False):
        loop = Loop()
        loop.epoch()
        loop.task.model.train(training)
        loop.grower.boundary(loop.task.validation_loader)
        assert loop.task.model.training is training


def test_an_empty_validation_loader_is_an_error() -> None:
    loop = Loop()
    loop.epoch()
    with pytest.raises(EmptyLoaderError):
        loop.grower.boundary([])


@pytest.mark.parametrize("epochs", [2, 5, 7, 9])
def test_a_saved_grower_goes_on_bitwise_in_another_process(tmp_path: Path, epochs: int) -> None:
    torch.manual_seed(0)
    loop = Loop()
    for _ in range(epochs):
        loop.epoch()
    torch.save(loop.grower.state_dict(), tmp_path / "grower.pt")
    random = torch.get_rng_state()
    for _ in range(6):
        loop.epoch()

    other = Loop()
    other.grower.load_state_dict(torch.load(tmp_path / "grower.pt", weights_only=True))
    torch.set_rng_state(random)
    for _ in range(6):
        other.epoch()
    assert differing(loop.grower.state_dict(), other.grower.state_dict()) == []


def test_a_state_of_another_host_is_refused() -> None:
    loop = Loop()
    loop.epoch()
    other = Loop(regression())
    with pytest.raises((RuntimeError, KeyError, AttributeError)):
        other.grower.load_state_dict(loop.grower.state_dict())


def test_an_operators_command_is_carried_out_at_once() -> None:
    loop = Loop()
    for _ in range(4):
        loop.epoch()
    assert loop.grower.executor is not None
    name = next(iter(loop.grower.executor.seeds))
    loop.grower.carry_out(Cull(name))
    assert loop.grower.executor.seeds[name].stage is Stage.CULLED


@pytest.mark.parametrize(
    "changes",
    [
        {"blueprints": ["BP001"]},
        {"blueprints": None, "growth": {**QUICK, "tiers": ["experimental"]}},
    ],
)
def test_what_is_not_certified_or_of_a_closed_tier_is_planted_for_nobody(
    changes: dict[str, Any],
) -> None:
    """Policies are told what is legal; a command from elsewhere need not keep to it."""
    loop = Loop(policy="random", **changes)
    loop.epoch()
    site = loop.grower.sites[0].name
    with pytest.raises(CommandRefusedError, match=r"BP002 is not certified .* legal there: "):
        loop.grower.carry_out(Germinate((Candidate(site, "BP002"),)))
    assert loop.stages() == []


def test_static_finds_no_sites_and_plants_nothing() -> None:
    loop = Loop(policy="static")
    for _ in range(3):
        loop.epoch()
    assert loop.grower.executor is None
    assert loop.grower.sites == []


def test_accumulated_gradients_step_seeds_with_the_host() -> None:
    loop = Loop()
    while Stage.BLENDING not in loop.stages():
        loop.epoch()
    executor = loop.grower.executor
    assert executor is not None
    assert executor.trial is not None
    kernel = executor.trial.seed.kernel
    batches: Any = loop.task.train_loader
    with loop.grower.step(batches[0]):  # alpha leaves 0
        train_step(loop.task.model, loop.optimizer, batches[0])
    before = copy.deepcopy(kernel.state_dict())
    loop.optimizer.zero_grad()
    for batch in batches[:2]:
        F.cross_entropy(loop.task.model(batch[0]), batch[1]).backward()
        assert differing(before, kernel.state_dict()) == []
    with loop.grower.step(batches[1]):
        loop.optimizer.step()
    assert differing(before, kernel.state_dict()) != [] or not list(kernel.parameters())


class Forecaster(nn.Module):
    """A recurrent regression whose embedding and head share their weight."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Linear(2, 8, bias=False)
        self.cell = nn.GRU(8, 8, batch_first=True)
        self.leave = nn.Linear(8, 2, bias=False)
        self.leave.weight = nn.Parameter(torch.randn(2, 8) * 0.1)
        self.mirror = nn.Linear(8, 2, bias=False)
        self.mirror.weight = self.leave.weight

    def forward(self, series: Tensor) -> Tensor:
        hidden, _ = self.cell(self.enter(series))
        return self.leave(hidden[:, -1]) + 0.1 * self.mirror(hidden[:, 0])


def test_a_recurrent_regression_with_tied_weights_grows_and_stays_tied() -> None:
    torch.manual_seed(0)
    series = torch.randn(64, 6, 2)
    targets = series.sum(dim=1)
    batches = list(zip(series.split(16), targets.split(16), strict=True))
    task = regression(model=Forecaster(), train_loader=batches, validation_loader=batches[:2])

    def step(model: nn.Module, optimizer: Optimizer, batch: Any) -> Tensor:
        optimizer.zero_grad()
        loss = F.mse_loss(model(batch[0]), batch[1])
        loss.backward()
        optimizer.step()
        return loss.detach()

    optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-2)
    grower = Grower(
        task.model,
        optimizer,
        state_dir=None,
        loss=F.mse_loss,
        train_step=step,
        seed=1,
        growth=GrowthOptions(**QUICK),
        blueprints=["BP021", "BP014"],
    )
    for _ in range(14):
        for batch in batches:
            with grower.step(batch):
                step(task.model, optimizer, batch)
        grower.boundary(task.validation_loader)
    assert grafts_of(task.model)
    assert task.model.leave.weight is task.model.mirror.weight
    assert {site.name for site in grower.sites} >= {"cell"}


class Silent(nn.Module):
    """A kernel that changes nothing, exactly: the null treatment."""

    output = "change"

    def forward(self, h: Tensor) -> Tensor:
        return torch.zeros_like(h)


def test_a_null_trial_beside_a_kept_seed_has_exactly_no_benefit() -> None:
    """The twin's seeds follow the very rates of the run's, through warm-up and schedule."""
    torch.manual_seed(0)
    batches = listed().train_loader
    host = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    task = listed(model=host)
    optimizer = torch.optim.Adam(host.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=40)
    grower = Grower(
        host,
        optimizer,
        state_dir=None,
        loss=task.loss,
        train_step=train_step,
        policy="random",
        growth=GrowthOptions(**{**QUICK, "max_windows": 50, "warmup_steps": 60}),
        blueprints=["BP021"],
        seed=1,
    )
    silenced = False
    for _ in range(24):
        for batch in batches:
            with grower.step(batch):
                train_step(host, optimizer, batch)
        grower.boundary(task.validation_loader)
        schedule.step()
        executor = grower.executor
        assert executor is not None
        if executor.kept and not silenced:
            executor.options = GrowthOptions(**{**QUICK, "g4_margin": 1e9, "max_windows": 50})
        if executor.kept and executor._training and not silenced:
            (waiting,) = executor._training
            waiting.graft.kernel = Silent()
            waiting.optimizer = None
            waiting.parameter_count = 0
            silenced = True
        if silenced and executor.trial is not None and executor.trial.benefits:
            break
    assert executor.trial is not None
    assert executor.trial.benefits == [0.0]


def test_certificates_are_kept_for_the_next_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def prepared() -> Grower:
        task = listed()
        grower = Grower(
            task.model,
            task.make_optimizer(task.model.parameters()),
            loss=task.loss,
            state_dir=tmp_path,
            blueprints=["BP014"],
        )
        grower.prepare(next(iter(task.train_loader)))
        return grower

    first = prepared()
    assert first.legal
    monkeypatch.setattr("esper_async.kasmina.legal.prove", None)  # nothing is proved again
    assert [pair.blueprint for pair in prepared().legal] == [p.blueprint for p in first.legal]


def test_parameters_that_a_caller_adds_are_trained_once_they_are_registered() -> None:
    loop = Loop(policy="static")
    loop.epoch()
    scale = nn.Parameter(torch.ones(3))
    loop.optimizer.add_param_group({"params": [scale]})
    with pytest.raises(OwnershipError, match=r"Grower\.register"):
        loop.epoch()
    loop.grower.register([scale])
    scale.grad = torch.ones(3)
    loop.optimizer.step()
    assert not torch.equal(scale, torch.ones(3))


def test_parameters_are_not_registered_while_a_twin_goes_without_them() -> None:
    loop = Loop()
    while Stage.BLENDING not in loop.stages():
        loop.epoch()
    scale = nn.Parameter(torch.ones(3))
    with pytest.raises(OwnershipError, match="is on trial"):
        loop.grower.register([scale])
    assert loop.grower.owners.owner_of(scale) is None
