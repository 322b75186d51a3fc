"""G3 on real networks: what a site gives is looked at on both paths, and what breaks it goes."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_async.kasmina.evaluation import SampleLoss, evaluate
from esper_async.kasmina.evaluation_form import EVALUATIONS
from esper_async.kasmina.gates import GateResult
from esper_async.kasmina.probe import Probe
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.stage import Stage
from tests.growth_hosts import Kind
from tests.kasmina.plots import Plot


class Normed(nn.Module):
    """Its site stands before a layer norm, so that the loss does not tell the site's scale."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(6, 8)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (N, 6) to logits (N, 3)."""
        logits: Tensor = self.head(self.norm(self.body(rows)))
        return logits


class Scaling(nn.Module):
    """A kernel that multiplies what its site gives by a factor, from now on."""

    output = "replacement"

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, h: Tensor) -> Tensor:
        """Return the activation (N, F), scaled."""
        return self.factor * h


class Flat(nn.Module):
    """A kernel whose output is one and the same for every sample."""

    output = "replacement"

    def forward(self, h: Tensor) -> Tensor:
        """Return ones in the activation's shape (N, F)."""
        return torch.ones_like(h)


def shadowing(kind: Kind = "mlp", model: nn.Module | None = None) -> tuple[Plot, Seed]:
    """A seed whose next boundary is that of G3."""
    plot = Plot(kind, model=model, twin=False, g4_margin=-1e9, window_boundaries=50)
    blueprint = {"attention": "BP020", "conv2d": "BP015"}.get(kind, "BP021")
    (seed,) = plot.plant(blueprint)
    plot.until("SHADOWING")
    return plot, seed


def replace_kernel(seed: Seed, kernel: nn.Module) -> None:
    seed.graft.kernel = kernel
    seed.graft.formula = "convex"


def g3(seed: Seed) -> GateResult:
    (gate,) = [gate for gate in seed.gates if gate.name == "G3"]
    return gate


@pytest.mark.parametrize("kind", ["mlp", "conv2d", "attention"])
def test_a_sound_seed_passes_and_the_gate_has_the_numbers_of_both_paths(kind: Kind) -> None:
    plot, seed = shadowing(kind)
    plot.boundary()
    assert seed.stage is Stage.PROBATIONARY
    numbers = g3(seed).numbers
    assert numbers["on_not_finite"] == numbers["off_not_finite"] == 0.0
    assert all(math.isfinite(value or math.nan) for value in (numbers["growth"], numbers["spread"]))
    assert (numbers["on_mean"], numbers["on_std"]) != (numbers["off_mean"], numbers["off_std"])


@pytest.mark.parametrize(
    ("kernel", "why"),
    [
        (Scaling(1e6), "exploded"),
        (Scaling(1e-6), "collapsed"),
        (Flat(), "collapsed"),
    ],
)
def test_a_kernel_that_explodes_or_collapses_goes_though_the_loss_stays_finite(
    kernel: nn.Module, why: str
) -> None:
    plot, seed = shadowing(model=Normed())
    replace_kernel(seed, kernel)
    results = plot.boundary()
    assert math.isfinite(results["host"].loss)
    assert math.isfinite(results["off"].loss)
    gate = g3(seed)
    assert (gate.passed, seed.stage) == (False, Stage.CULLED)
    assert why in gate.reason


def test_the_site_is_looked_at_in_shadowing_only_and_no_hook_stays() -> None:
    plot, seed = shadowing()
    site = plot.model.get_submodule(seed.site.path)
    hooks = len(site._forward_hooks)
    looked = [name for name, variant in plot.executor.variants().items() if _is_probe(variant)]
    assert sorted(looked) == ["host", "off"]
    results = plot.boundary()
    assert len(site._forward_hooks) == hooks
    assert results["host"].site is not None
    assert not any(map(_is_probe, plot.executor.variants().values()))
    assert plot.boundary()["host"].site is None


def _is_probe(variant: Any) -> bool:
    return isinstance(variant, Probe)


def test_a_probe_measures_what_comes_out_batch_by_batch_and_changes_nothing() -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 5)
    batches = [(torch.randn(size, 3), torch.zeros(size, dtype=torch.long)) for size in (7, 4)]

    def variant(batch: Any) -> tuple[Tensor, Tensor]:
        return layer(batch[0]), batch[1]

    loss = SampleLoss(nn.functional.cross_entropy)
    plain = evaluate({"host": variant}, batches, loss)["host"]
    seen = evaluate({"host": Probe(variant, layer)}, batches, loss)["host"]
    assert torch.equal(plain.losses, seen.losses)
    assert plain.site is None
    with torch.no_grad():
        whole = torch.cat([layer(batch[0]) for batch in batches]).double()
    assert seen.site is not None
    assert seen.site.mean == pytest.approx(float(whole.mean()))
    assert seen.site.std == pytest.approx(float(whole.std(correction=0)))
    assert (seen.site.not_finite, seen.site.shapes) == (0.0, ((4, 5), (7, 5)))
    content, numbers = EVALUATIONS.pack({"host": seen})
    assert EVALUATIONS.unpack(content, numbers)["host"].site == seen.site


def test_a_probe_counts_what_is_not_finite_and_says_when_it_saw_nothing() -> None:
    site = nn.Identity()
    probe = Probe(lambda batch: (site(batch), batch), site)
    assert probe.statistics() is None
    probe(torch.tensor([1.0, 3.0, math.nan, math.inf]))
    found = probe.statistics()
    assert found is not None
    assert (found.mean, found.std, found.not_finite) == (2.0, 1.0, 0.5)
