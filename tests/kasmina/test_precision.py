"""Mixed precision and accumulation: the host notices no seed, and each owner skips for itself."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.amp.grad_scaler import GradScaler
from torch.nn import functional as F
from torch.optim import Optimizer

from esper_async.kasmina.micro_batches import MicroBatches, parts_of, step_size
from esper_async.kasmina.precision import PRECISIONS, Precision, PrecisionName
from esper_async.tolaria.task import Task
from esper_async.tolaria.training import make_train_step
from tests.growth_hosts import CASES, Kind, differing, make_batches, make_host
from tests.kasmina.plots import Plot

STEPS = 12
HALF: list[PrecisionName] = ["bf16-mixed", "16-mixed"]


class MixedPlot(Plot):
    """A plot whose host, seeds and twin are trained in a precision, on several batches a step."""

    def __init__(
        self, kind: Kind, precision: PrecisionName, *, accumulate: int = 1, **options: Any
    ) -> None:
        super().__init__(kind, **options)
        self.branch.precision = Precision(precision)
        task = Task(model=self.model, train_loader=[], validation_loader=[], loss=F.cross_entropy)
        self.train_step = make_train_step(task, self.branch.precision)
        self.executor._train_step = self.train_step
        self.accumulate = accumulate

    def step(self, index: int) -> Tensor:
        batch = batch_of(self.batches, index, self.accumulate)
        for seed in self.executor.with_optimizer():
            if seed.optimizer is not None:
                for group in seed.optimizer.param_groups:
                    group["lr"] = self.rate
        loss = self.train_step(self.model, self.optimizer, batch)
        self.branch.settle()
        self.executor.after_step(batch)
        return loss


def batch_of(batches: list[Any], index: int, accumulate: int) -> Any:
    chosen = [batches[(index + part) % len(batches)] for part in range(accumulate)]
    return chosen[0] if accumulate == 1 else MicroBatches(chosen)


def by_hand(kind: Kind, precision: PrecisionName, accumulate: int) -> tuple[nn.Module, Optimizer]:
    """Train the host alone, in a loop as PyTorch's own documentation has it."""
    model, batches = make_host(kind), make_batches(kind)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    scaler = GradScaler("cpu", enabled=precision == "16-mixed")
    half = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}.get(precision)
    torch.manual_seed(11)
    for index in range(STEPS):
        optimizer.zero_grad(set_to_none=True)
        for part in parts_of(batch_of(batches, index, accumulate)):
            with torch.autocast("cpu", dtype=half, enabled=half is not None):
                loss = F.cross_entropy(model(part[0]), part[1])
            if accumulate > 1:
                loss = loss / accumulate
            scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    return model, optimizer


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize(("precision", "accumulate"), [(p, 1) for p in HALF] + [("32", 3)])
def test_the_hosts_run_is_bitwise_a_loop_by_hand_while_a_seed_trains(
    kind: Kind, precision: PrecisionName, accumulate: int
) -> None:
    alone, optimizer = by_hand(kind, precision, accumulate)
    plot = MixedPlot(kind, precision, accumulate=accumulate)
    (seed,) = plot.plant(CASES[kind].blueprints[-1])
    born = copy.deepcopy(seed.graft.state_dict())
    torch.manual_seed(11)
    for index in range(STEPS):
        plot.step(index)

    assert differing(dict(alone.state_dict()), dict(plot.model.state_dict())) == []
    assert differing(optimizer.state_dict(), plot.optimizer.state_dict()) == []
    assert differing(born, seed.graft.state_dict()) != []


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_seed_learns_from_the_mean_of_a_steps_batches(precision: PrecisionName) -> None:
    """Two equal halves of a batch, accumulated, are that batch."""
    plots = [MixedPlot("mlp", precision), MixedPlot("mlp", precision)]
    inputs, targets = plots[0].batches[0]
    half = len(inputs) // 2
    whole = (inputs, targets)
    halves = MicroBatches([(inputs[:half], targets[:half]), (inputs[half:], targets[half:])])
    for plot, batch in zip(plots, [whole, halves], strict=True):
        plot.plant("BP021")
        plot.model.eval()  # batch statistics would differ
        plot.executor._shadow(batch)

    one, two = (plot.executor.seeds["s1"].gradients.last_norm for plot in plots)
    assert one is not None
    assert two is not None
    torch.testing.assert_close(one, two, rtol=1e-5 if precision == "32" else 2e-2, atol=0.0)


def test_an_overflow_in_a_kernel_lets_that_kernel_alone_skip_its_step() -> None:
    plot = MixedPlot("mlp", "16-mixed")
    sound, burst = plot.plant("BP021", "BP014")
    for seed in (sound, burst):
        assert seed.optimizer is not None
        plot.branch.precision.load_state_of(
            seed.optimizer, GradScaler("cpu", init_scale=1024.0).state_dict()
        )
    assert burst.optimizer is not None
    plot.branch.precision.load_state_of(
        burst.optimizer, GradScaler("cpu", init_scale=3e38).state_dict()
    )
    before = copy.deepcopy(burst.graft.state_dict())
    sounds = copy.deepcopy(sound.graft.state_dict())
    plot.step(0)

    assert differing(before, burst.graft.state_dict()) == []
    assert differing(sounds, sound.graft.state_dict()) != []
    assert burst.gradients.finite is None or bool(burst.gradients.finite)
    scaler = plot.branch.precision.scaler(burst.optimizer)
    assert scaler is not None
    assert scaler.get_scale() == pytest.approx(1.5e38, rel=1e-3)
    host = plot.branch.precision.scaler(plot.optimizer)
    assert host is not None
    assert host.get_scale() == 65536.0


def test_the_seed_on_trial_takes_its_gradients_at_their_true_size() -> None:
    plot = MixedPlot("mlp", "16-mixed", ramp_boundaries=8)
    plot.plant("BP021")
    plot.until("BLENDING")
    trial = plot.executor.trial
    assert trial is not None
    assert trial.seed.optimizer is not None
    plot.step(0)
    plot.step(1)
    plot.model.eval()  # dropout would differ
    found: list[float] = []
    trial.seed.optimizer.register_step_pre_hook(
        lambda optimizer, *_: found.append(gradient_norm(optimizer))
    )
    before = copy.deepcopy(dict(trial.seed.kernel.state_dict()))
    expected = true_norm(plot, trial.seed.kernel, plot.batches[2])
    plot.step(2)

    assert found == [pytest.approx(expected, rel=2e-2)]
    assert differing(before, dict(trial.seed.kernel.state_dict())) != []


def gradient_norm(optimizer: Optimizer) -> float:
    gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
    return float(torch.stack([g.norm() for g in gradients if g is not None]).norm())


def true_norm(plot: Plot, kernel: nn.Module, batch: Any) -> float:
    loss = F.cross_entropy(plot.model(batch[0]), batch[1])
    gradients = torch.autograd.grad(loss, list(kernel.parameters()), allow_unused=True)
    return min(1.0, float(torch.stack([g.norm() for g in gradients if g is not None]).norm()))


def test_a_host_that_skips_a_step_leaves_no_gradient_on_its_seeds() -> None:
    plot = MixedPlot("mlp", "16-mixed", ramp_boundaries=8)
    plot.plant("BP021")
    plot.until("BLENDING")
    plot.step(0)
    plot.branch.precision.load_state_of(
        plot.optimizer, GradScaler("cpu", init_scale=3e38).state_dict()
    )
    assert plot.executor.trial is not None
    kernel = plot.executor.trial.seed.kernel
    before = copy.deepcopy(dict(plot.model.named_parameters()))
    plot.step(1)

    assert differing(before, dict(plot.model.named_parameters())) == []
    assert all(parameter.grad is None for parameter in kernel.parameters())


def test_the_twin_starts_from_the_hosts_own_scale() -> None:
    plot = MixedPlot("mlp", "16-mixed")
    plot.branch.precision.load_state_of(
        plot.optimizer, GradScaler("cpu", init_scale=128.0).state_dict()
    )
    plot.plant("BP021")
    plot.until("BLENDING")
    assert plot.executor.trial is not None
    twin = plot.branch.precision.scaler(plot.executor.trial.twin.optimizer)
    assert twin is not None
    assert twin.get_scale() == 128.0


def test_a_run_that_adopts_its_twin_adopts_the_twins_scale() -> None:
    plot = MixedPlot("mlp", "16-mixed", ramp_boundaries=8)
    plot.plant("BP021")
    plot.until("BLENDING")
    assert plot.executor.trial is not None
    twin = plot.executor.trial.twin.optimizer
    plot.branch.precision.load_state_of(twin, GradScaler("cpu", init_scale=512.0).state_dict())
    plot.executor.cull("s1", "asked for")

    scaler = plot.branch.precision.scaler(plot.optimizer)
    assert scaler is not None
    assert scaler.get_scale() == 512.0


def test_evaluations_run_in_single_precision() -> None:
    plot = MixedPlot("mlp", "bf16-mixed", dwell_steps=1)
    plot.plant("BP021")
    plot.step(0)
    results = plot.measure()
    plot.model.eval()
    with torch.no_grad():
        losses = [
            F.cross_entropy(plot.model(inputs), targets, reduction="none")
            for inputs, targets in plot.decision
        ]
    assert torch.equal(results["host"].losses.float(), torch.cat(losses))


def test_a_steps_size_is_that_of_all_its_batches() -> None:
    batches = make_batches("mlp")
    size = len(batches[0][0])
    assert step_size(batches[0]) == size
    assert step_size(MicroBatches(batches[:3])) == 3 * size


def test_an_unknown_precision_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'16'; known: '32', 'bf16-mixed', '16-mixed'"):
        Precision("16")  # type: ignore[arg-type]
