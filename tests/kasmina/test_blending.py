"""BLENDING: attached, equal to autograd on the plain composition, silent at its first instant."""

import copy
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.interface import SiteInterface
from esper_async.kasmina.kernels import build_kernel
from esper_async.kasmina.kernels.graft import Graft, GraftHook, attach, detach, grafts_of
from esper_async.kasmina.kernels.setting import SettingRefusedError
from esper_async.kasmina.planting import CommandRefusedError
from esper_async.kasmina.ramp import RAMP_SCHEDULES, ramp
from esper_async.kasmina.seed import Candidate
from tests.growth_hosts import CASES, differing
from tests.kasmina.plots import Plot

FEATURES = SiteInterface("feature", (8,))


class Parts(nn.Module):
    """Upstream, the place of the graft, downstream; (N, 6) to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 8)
        self.down = nn.Linear(8, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(rows)))


def composed(model: Parts, graft: Graft, rows: Tensor, alpha: float | Tensor, mode: str) -> Tensor:
    kernel, hidden = graft.kernel, model.up(rows)
    if graft.gate is not None:
        logit = hidden @ graft.gate.weight + graft.gate.bias  # (N,)
        alpha = alpha * torch.sigmoid(logit).unsqueeze(1)
    if mode == "residual":
        blended = hidden + alpha * kernel(hidden)
    else:
        blended = (1 - alpha) * hidden + alpha * kernel(hidden)
    return model.down(torch.tanh(blended))


FITTING = [("BP021", "residual"), ("BP014", "convex")]
MODES = ["plain", "per_channel", "confidence_gated"]


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5, 1.0])
@pytest.mark.parametrize(("blueprint", "formula"), FITTING)
@pytest.mark.parametrize("mode", MODES)
def test_gradients_equal_autograd_on_the_plain_composition(
    mode: Any, blueprint: str, formula: str, alpha: float
) -> None:
    torch.manual_seed(0)
    model, rows, targets = Parts(), torch.randn(16, 6), torch.randint(0, 3, (16,))
    kernel = build_kernel(blueprint, FEATURES, seed=1)
    graft = Graft(kernel, form="nf", mode=formula if mode == "plain" else mode, channels=8)
    with torch.no_grad():
        for parameter in graft.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    parameters = [*model.parameters(), *graft.parameters()]
    graft.set_alpha(alpha)
    composition = composed(model, graft, rows, graft.alpha.clone(), formula)
    expected = torch.autograd.grad(F.cross_entropy(composition, targets), parameters)

    attach(model.up, graft, "esper_s1")
    F.cross_entropy(model(rows), targets).backward()

    for parameter, gradient in zip(parameters, expected, strict=True):
        assert parameter.grad is not None
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("form", "shape"), [("nchw", (4, 5, 6)), ("ncl", (4, 6)), ("ntd", (6, 4)), ("nf", (4,))]
)
@pytest.mark.parametrize("mode", ["residual", "per_channel", "confidence_gated"])
def test_every_mode_keeps_the_shape_and_is_silent_at_zero(
    mode: Any, form: Any, shape: tuple[int, ...]
) -> None:
    h = torch.randn(3, *shape)
    graft = Graft(nn.Identity(), form=form, mode=mode, channels=4)
    assert torch.equal(graft(h), h)
    graft.set_alpha(1.0)
    full = graft(h)
    assert full.shape == h.shape
    if mode == "confidence_gated":
        strength = ((full - h) / h).flatten(1)
        torch.testing.assert_close(
            strength, torch.full_like(strength, 0.952574), rtol=1e-3, atol=1e-4
        )
    else:
        assert torch.equal(full, h + h)


def test_channels_move_in_their_turn_and_all_arrive() -> None:
    graft = Graft(nn.Identity(), form="nchw", mode="per_channel", channels=5)
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        graft.set_alpha(value)
        alphas = graft.alpha.flatten().tolist()
        assert alphas == sorted(alphas, reverse=True)
        assert sum(alphas) / 5 == pytest.approx({0.25: 0.15, 0.75: 0.85}.get(value, value))


@pytest.mark.parametrize(("blueprint", "formula"), FITTING)
def test_a_blend_that_does_not_fit_the_kernel_is_refused(blueprint: str, formula: str) -> None:
    other: Any = "convex" if formula == "residual" else "residual"
    kernel = build_kernel(blueprint, FEATURES, seed=1)
    with pytest.raises(SettingRefusedError, match=f"what fits it is {formula}, per_channel"):
        Graft(kernel, form="nf", mode=other)
    plot = Plot("mlp")
    with pytest.raises(CommandRefusedError, match="cannot be blended"):
        plot.executor.germinate([Candidate("here", blueprint, blend=other)])
    assert plot.executor.seeds == {}


@pytest.mark.parametrize("blend", ["per_channel", "confidence_gated"])
@pytest.mark.parametrize("kind", ["conv2d", "conv1d", "attention", "mlp"])
def test_a_seed_lives_its_whole_life_in_every_mode(blend: Any, kind: Any) -> None:
    plot = Plot(kind, g4_margin=-1e9)
    blueprint = CASES[plot.kind].blueprints[-1]
    (seed,) = plot.executor.germinate([Candidate("here", blueprint, blend=blend)])
    born = copy.deepcopy(seed.graft.state_dict())
    plot.until("FOSSILIZED")
    assert seed.alpha == 1.0
    if seed.graft.gate is not None:
        assert differing(born, seed.graft.state_dict()) != []
        assert seed.graft.gate.bias.item() != 3.0
    copied = copy.deepcopy(plot.model)
    plot.model.eval()
    copied.eval()
    with torch.no_grad():
        assert torch.equal(copied(plot.decision[0][0]), plot.model(plot.decision[0][0]))


@given(st.sampled_from(RAMP_SCHEDULES), st.floats(-1.0, 2.0), st.floats(0.0, 1.0))
def test_every_ramp_rises_from_nothing_to_all(schedule: Any, progress: float, step: float) -> None:
    now, later = ramp(schedule, progress), ramp(schedule, progress + step)
    assert 0.0 <= now <= later <= 1.0
    assert (ramp(schedule, 0.0), ramp(schedule, 1.0)) == (0.0, 1.0)
    assert ramp(schedule, 0.5) == pytest.approx(0.5)


@pytest.mark.parametrize("schedule", RAMP_SCHEDULES)
def test_alpha_follows_the_ramp_that_a_candidate_names(schedule: Any) -> None:
    plot = Plot("mlp", ramp_boundaries=2, window_boundaries=5)
    (seed,) = plot.executor.germinate([Candidate("here", "BP021", ramp=schedule)])
    plot.epoch()
    found = []
    for index in range(8):
        plot.step(index)
        found.append(seed.alpha)
    assert found == pytest.approx([ramp(schedule, (index + 1) / 8) for index in range(8)])


@pytest.mark.parametrize(("mode", "blueprint"), [("residual", "BP021"), ("convex", "BP014")])
def test_at_alpha_zero_the_output_is_the_hosts_and_upstream_keeps_its_gradient(
    mode: Any, blueprint: str
) -> None:
    torch.manual_seed(0)
    model, rows = Parts(), torch.randn(16, 6)
    plain = model(rows)
    (expected,) = torch.autograd.grad(plain.sum(), [model.up.weight])
    attach(model.up, Graft(build_kernel(blueprint, FEATURES, seed=1), form="nf", mode=mode), "g")
    blended = model(rows)
    (found,) = torch.autograd.grad(blended.sum(), [model.up.weight])

    assert torch.equal(plain, blended)
    assert torch.equal(expected, found)
    assert found.abs().sum() > 0


def test_the_instant_of_blending_leaves_the_output_bitwise_unchanged() -> None:
    plot = Plot("conv2d", dwell_steps=4)
    plot.plant("BP015")
    for index in range(4):
        plot.step(index)
    plot.model.eval()
    with torch.no_grad():
        before = plot.model(plot.decision[0][0])
    plot.model.train()
    plot.boundary()
    plot.model.eval()

    assert plot.moves[-1] == ("s1", "TRAINING", "BLENDING")
    with torch.no_grad():
        assert torch.equal(plot.model(plot.decision[0][0]), before)


def test_germinating_leaves_the_output_bitwise_unchanged() -> None:
    plot = Plot("attention")
    plot.model.eval()
    with torch.no_grad():
        before = plot.model(plot.decision[0][0])
        plot.plant("BP023", "PL002")
        assert torch.equal(plot.model(plot.decision[0][0]), before)


def test_alpha_rises_to_one_over_the_ramp_and_stays_there() -> None:
    plot = Plot("mlp", ramp_boundaries=2, window_boundaries=5)
    (seed,) = plot.plant("BP021")
    plot.epoch()
    alphas = []
    for index in range(12):
        plot.step(index)
        alphas.append(float(seed.graft.alpha))

    assert alphas == [min((index + 1) / 8, 1.0) for index in range(12)]


def test_a_blended_seed_changes_the_output_and_trains_with_the_host() -> None:
    plot = Plot("mlp")
    (seed,) = plot.plant("PL002")
    plot.epoch()
    plot.step(0)
    plot.model.eval()
    inputs = plot.decision[0][0]
    with torch.no_grad():
        on = plot.model(inputs)
        seed.graft.set_alpha(0.0)
        off = plot.model(inputs)

    assert not torch.equal(on, off)


def test_alpha_is_clamped_and_is_a_buffer() -> None:
    graft = Graft(nn.Identity(), form="nf", mode="residual")
    graft.set_alpha(7.0)
    assert float(graft.alpha) == 1.0
    graft.set_alpha(-1.0)
    assert float(graft.alpha) == 0.0
    assert "alpha" in dict(graft.named_buffers())


def test_only_the_first_of_several_outputs_is_blended() -> None:
    cell = nn.GRU(3, 8, batch_first=True)
    series = torch.randn(2, 5, 3)
    plain, state = cell(series)
    sequence = SiteInterface("sequence", (5, 8))
    graft = Graft(build_kernel("PL002", sequence, seed=1, drill=True), form="ntd", mode="residual")
    graft.set_alpha(1.0)
    attach(cell, graft, "g")
    blended, same = cell(series)

    assert not torch.equal(plain, blended)
    assert torch.equal(state, same)


class Reading(NamedTuple):
    """An activation with something beside it, by name."""

    hidden: Tensor
    norm: Tensor


class Named(nn.Module):
    """Linear, its output in a named tuple; (N, 6) to (N, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(6, 8)

    def forward(self, rows: Tensor) -> Reading:
        hidden = self.up(rows)
        return Reading(hidden, hidden.norm())


class ReadsByName(nn.Module):
    """Reads a named tuple by its names; (N, 6) to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.named = Named()
        self.head = nn.Linear(8, 3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.head(torch.tanh(self.named(rows).hidden))


@pytest.mark.parametrize("shadow_mode", ["sequential", "batched"])
def test_a_named_tuple_stays_one_through_a_seeds_whole_life(shadow_mode: str) -> None:
    torch.manual_seed(0)
    plot = Plot(
        model=ReadsByName(), sites={"here": "named"}, g4_margin=-1e9, shadow_mode=shadow_mode
    )
    plot.plant("BP021", "BP014")
    plot.until("FOSSILIZED")

    assert plot.executor.shadows.one_by_one == {}
    assert len(grafts_of(plot.model)) == 1
    assert isinstance(plot.model.named(plot.batches[0][0]), Reading)  # type: ignore[operator, union-attr]


def test_two_grafts_at_one_site_work_in_series() -> None:
    torch.manual_seed(0)
    model, rows = Parts(), torch.randn(4, 6)
    first, second = (build_kernel("BP014", FEATURES, seed=seed) for seed in (1, 2))
    for name, kernel in (("a", first), ("b", second)):
        graft = Graft(kernel, form="nf", mode="convex")
        graft.set_alpha(1.0)
        attach(model.up, graft, name)
    plain = model.down(torch.tanh(second(first(model.up.forward(rows)))))

    torch.testing.assert_close(model(rows), plain)
    detach(model.up, "a")
    torch.testing.assert_close(model(rows), model.down(torch.tanh(second(model.up.forward(rows)))))
    assert list(grafts_of(model)) == ["up.b"]


def test_a_graft_is_refused_where_its_module_would_become_a_layer() -> None:
    graft = Graft(nn.Identity(), form="nf", mode="residual")
    with pytest.raises(ValueError, match="cannot be a child of a Sequential"):
        attach(nn.Sequential(nn.Linear(2, 2)), graft, "g")
    site = nn.Linear(2, 2)
    attach(site, graft, "g")
    with pytest.raises(ValueError, match="already has"):
        attach(site, graft, "g")


def test_a_detached_input_would_be_noticed() -> None:
    """The mutant of this bar: a blend whose kernel sees a detached activation."""

    class Detached(GraftHook):
        def __call__(self, module: nn.Module, args: Any, output: Any) -> Any:
            h, graft = output, self.graft
            return h.detach() + graft.alpha * (graft.kernel(h.detach()) - h.detach())

    torch.manual_seed(0)
    model, rows = Parts(), torch.randn(16, 6)
    kernel = build_kernel("BP014", FEATURES, seed=1)
    graft = Graft(kernel, form="nf", mode="convex")
    graft.set_alpha(1.0)
    model.up.register_forward_hook(Detached(graft))
    model(rows).sum().backward()

    assert model.up.weight.grad is None


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_padding_in_a_transformer_encoder_does_not_break_evaluation() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 2)
    sequence = SiteInterface("sequence", (5, 8))
    kernel = build_kernel("PL002", sequence, seed=1, drill=True)
    graft = Graft(kernel, form="ntd", mode="residual")
    tokens = torch.randn(3, 5, 8)
    padding = torch.zeros(3, 5, dtype=torch.bool)
    padding[0, 3:] = True
    encoder.eval()
    with torch.no_grad():
        plain = encoder(tokens, src_key_padding_mask=padding)
        attach(encoder.layers[0], graft, "g")
        silent = encoder(tokens, src_key_padding_mask=padding)
        graft.set_alpha(1.0)
        blended = encoder(tokens, src_key_padding_mask=padding)

    torch.testing.assert_close(silent, plain)
    assert not torch.allclose(blended, plain)
