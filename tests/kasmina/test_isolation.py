"""A seed in TRAINING is invisible: the host's run is bitwise the one without it."""

import copy
from typing import Any

import pytest
import torch

from esper_async.kasmina.kernels.graft import Graft, attach
from esper_async.kasmina.shadow import shadow_variant
from esper_async.kasmina.user_code import UserCodeError
from tests.growth_hosts import (
    CASES,
    Kind,
    differing,
    make_batches,
    make_host,
    plain_step,
)
from tests.kasmina.plots import Plot

STEPS = 50


def trace_of(plot_or_none: Plot | None, kind: Kind, optimizer: Any, model: Any) -> dict[str, Any]:
    torch.manual_seed(11)
    batches = make_batches(kind)
    losses, gradients = [], []
    for index in range(STEPS):
        if plot_or_none is None:
            losses.append(plain_step(model, optimizer, batches[index % len(batches)]))
        else:
            losses.append(plot_or_none.step(index))
        gradients.append([copy.deepcopy(p.grad) for p in model.parameters()])
    return {
        "losses": losses,
        "gradients": gradients,
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "random": torch.get_rng_state(),
    }


@pytest.mark.parametrize(
    ("kind", "blueprint"),
    [(kind, blueprint) for kind, case in CASES.items() for blueprint in case.blueprints],
)
def test_training_leaves_the_hosts_run_bitwise_as_without_a_seed(
    kind: Kind, blueprint: str
) -> None:
    alone = make_host(kind)
    expected = trace_of(None, kind, torch.optim.AdamW(alone.parameters(), lr=1e-2), alone)

    plot = Plot(kind)
    (seed,) = plot.plant(blueprint)
    born = copy.deepcopy(seed.graft.state_dict())
    found = trace_of(plot, kind, plot.optimizer, plot.model)

    assert differing(expected, found) == []
    assert seed.gradients.steps == STEPS
    assert differing(born, seed.graft.state_dict()) != []  # it did learn


def test_a_tournament_with_noise_in_it_is_invisible_too() -> None:
    alone = make_host("mlp")
    expected = trace_of(None, "mlp", torch.optim.AdamW(alone.parameters(), lr=1e-2), alone)

    plot = Plot("mlp")
    plot.plant("BP021", "PL001", "PL002", "PL003", "BP001")
    found = trace_of(plot, "mlp", plot.optimizer, plot.model)

    assert differing(expected, found) == []


def test_host_keys_are_unchanged_while_dormant_and_in_training() -> None:
    plot = Plot("conv2d")
    before = list(plot.model.state_dict())
    hooks = sum(len(part._forward_hooks) for part in plot.model.modules())
    plot.plant("BP015")
    plot.step(0)

    assert list(plot.model.state_dict()) == before
    assert sum(len(part._forward_hooks) for part in plot.model.modules()) == hooks == 0


def test_measuring_candidates_draws_nothing_from_the_global_stream() -> None:
    plot = Plot("mlp", dwell_steps=1)
    torch.manual_seed(3)
    plot.measure()
    expected = torch.get_rng_state()

    plot.plant("PL001")
    plot.step(0)
    torch.manual_seed(3)
    results = plot.measure()

    assert "shadow:s1" in results
    assert torch.equal(torch.get_rng_state(), expected)


def test_the_hosts_noise_is_the_same_for_every_variant_that_is_compared() -> None:
    class AlwaysNoisy(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = torch.nn.Linear(6, 8)
            self.head = torch.nn.Linear(8, 3)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            hidden = torch.nn.functional.dropout(self.inner(rows), 0.5, training=True)
            return self.head(hidden)

    plot = Plot("mlp", model=AlwaysNoisy(), sites={"inner": "inner"}, dwell_steps=1)
    plot.plant("BP001", site="inner")
    plot.step(0)
    results = plot.measure()

    assert torch.equal(results["host"].losses, results["shadow:s1"].losses)


def test_shadows_follow_the_network_when_a_trial_begins_and_ends() -> None:
    sites = {"here": "body", "early": "body.2"}
    plot = Plot("mlp", sites=sites, g4_margin=1e9)  # no trial is ever passed
    plot.plant("BP021")
    plot.until("BLENDING")
    (waiting,) = plot.plant("BP014", site="early")
    plot.until("CULLED")
    plot.step(0)

    assert waiting.gradients.steps > 0
    assert set(waiting.buffers) == {name for name, _ in plot.model.named_buffers()}


def test_a_shadow_sees_the_trials_present_alpha() -> None:
    plot = Plot("mlp", sites={"here": "body", "early": "body.2"}, ramp_boundaries=4)
    plot.plant("BP021")
    plot.until("BLENDING")
    (identity,) = plot.plant("BP001", site="early")  # so its loss is the host's own
    plot.step(0)
    plot.step(1)

    plot.model.eval()
    with torch.no_grad():
        identity.buffers = {}
        shadow, _ = shadow_variant(plot.executor._call, identity)(plot.decision[0])
        host = plot.model(plot.decision[0][0])
    alpha = float(plot.executor.seeds["s1"].graft.alpha)
    assert 0 < alpha < 1
    assert torch.equal(shadow, host)


def test_a_kernels_buffers_in_the_network_are_not_written_by_anothers_shadow() -> None:
    class Counting(torch.nn.Module):
        output = "change"

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, h: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.calls += 1
            return torch.zeros_like(h)

    plot = Plot("mlp", sites={"here": "body", "early": "body.2"})
    plot.plant("BP014", site="early")
    graft = Graft(Counting(), form="nf", mode="residual")
    attach(plot.model.get_submodule("body.4"), graft, "esper_counting")
    for index in range(3):
        plot.step(index)

    assert float(graft.kernel.calls) == 3


def test_what_is_tied_in_the_host_is_tied_in_the_shadow_and_the_hosts_own_afterwards() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.again = torch.nn.Linear(6, 6), torch.nn.Linear(6, 6)
            self.again.weight = self.body.weight
            self.register_buffer("scale", torch.ones(6))
            self.again.register_buffer("scale", self.scale)
            self.head = torch.nn.Linear(6, 3)
            self.seen: list[torch.Tensor] = []

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            self.seen = [self.body.weight, self.again.weight, self.scale, self.again.scale]
            logits: torch.Tensor = self.head(self.again(self.body(rows)) * self.scale)
            return logits

    model = Tied()
    own = [model.body.weight, model.again.weight, model.scale, model.again.scale]
    plot = Plot("mlp", model=model, sites={"here": "body"}, dwell_steps=1000)
    (seed,) = plot.plant("BP021")
    plot.step(0)

    weight, again, scale, scale_again = model.seen
    assert weight is again
    assert scale is scale_again is seed.buffers["scale"]
    assert list(seed.buffers) == ["scale"]
    assert not weight.requires_grad
    assert weight is not own[0]
    assert scale is not own[2]
    now = [model.body.weight, model.again.weight, model.scale, model.again.scale]
    assert all(one is other for one, other in zip(now, own, strict=True))


def test_the_host_has_its_own_tensors_back_when_its_loss_raises() -> None:
    plot = Plot("mlp", dwell_steps=1000)
    plot.plant("BP021")
    plot.step(0)  # the host's own cost is measured by now
    before = dict(plot.model.named_parameters())
    with pytest.raises(UserCodeError):
        plot.executor.after_step((torch.zeros(4, 5), torch.zeros(4, dtype=torch.int64)))
    assert all(parameter is before[name] for name, parameter in plot.model.named_parameters())
