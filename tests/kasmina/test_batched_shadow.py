"""Candidates that learn in one pass learn what they would have learned one by one."""

import copy
from collections.abc import Iterator
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina import batched_shadow, shadow_training
from esper_async.kasmina.batched_shadow import batched_shadow_step, why_one_by_one
from esper_async.kasmina.micro_batches import MicroBatches
from esper_async.kasmina.precision import Precision
from esper_async.kasmina.seed import Candidate, Seed
from esper_async.kasmina.shadow import shadow_step
from tests.growth_hosts import CASES, Kind, differing, make_batches, plain_step
from tests.kasmina.plots import Plot

Host = Literal["conv", "attention", "mlp"]
STEPS = 24


class ConvHost(nn.Module):
    """Two convolutions that write in place into what they are given; (N, 2, 6, 6) to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 8, 3, padding=1)
        self.body = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        """Map images to logits."""
        early = F.relu_(self.stem(images))
        hidden = self.body(early)
        hidden += early
        logits: Tensor = self.head(hidden.mean(dim=(2, 3)))
        return logits


class AttentionHost(nn.Module):
    """Two transformer layers; tokens (N, 5) to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 8)
        layers = (nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),) * 2
        self.first, self.second = layers[0], nn.TransformerEncoder(layers[1], 1)
        self.head = nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map tokens to logits."""
        logits: Tensor = self.head(self.second(self.first(self.embed(tokens))).mean(dim=1))
        return logits


def mlp_host() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))


HOSTS: dict[Host, tuple[Any, Kind, str, tuple[str, ...]]] = {
    "conv": (ConvHost, "conv2d", "stem", ("BP009", "BP003", "BP014", "BP015", "PL001")),
    "attention": (AttentionHost, "attention", "first", ("BP020", "BP023", "BP009", "PL001")),
    "mlp": (mlp_host, "mlp", "0", ("BP021", "BP014", "BP002", "BP009", "PL001")),
}


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """The tensors are small: on a busy machine a second thread is only waited for."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def plot_of(host: Host, dtype: torch.dtype = torch.float64, **options: Any) -> Plot:
    """Return a plot of a host without batch statistics and randomness."""
    build, kind, site, _ = HOSTS[host]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = build().to(dtype)
    batches = [
        (inputs.to(dtype) if inputs.is_floating_point() else inputs, targets)
        for inputs, targets in make_batches(kind)
    ]
    options = {"dwell_steps": 10**6, **options}
    return Plot(kind, model=model, sites={"here": site}, batches=batches, **options)


def planted(plot: Plot, candidates: list[tuple[str, Any]]) -> list[Seed]:
    """Germinate candidates at the site, with a learning rate."""
    wanted = [Candidate("here", blueprint, blend=blend) for blueprint, blend in candidates]
    seeds = plot.executor.germinate(wanted)
    for seed in seeds:
        assert seed.optimizer is not None
        seed.optimizer.param_groups[0]["lr"] = plot.rate
    return seeds


def trained_both_ways(
    host: Host, candidates: list[tuple[str, Any]], dtype: torch.dtype, tolerance: float
) -> None:
    """Train the same candidates in one pass and one by one, and hold losses and kernels alike."""
    one_by_one, together = plot_of(host, dtype), plot_of(host, dtype)
    seeds, others = planted(one_by_one, candidates), planted(together, candidates)
    how: Any = {"clip_norm": 1.0, "precision": Precision()}
    for index in range(STEPS):
        batch = one_by_one.batches[index % 8]
        for plot in (one_by_one, together):
            plain_step(plot.model, plot.optimizer, batch)
        call, loss = one_by_one.executor._call, F.cross_entropy
        losses = torch.stack([shadow_step(call, seed, batch, loss, **how) for seed in seeds])
        found = batched_shadow_step(together.executor._call, others, batch, loss, **how)
        torch.testing.assert_close(found, losses, rtol=tolerance, atol=tolerance)
    assert differing(one_by_one.model.state_dict(), together.model.state_dict()) == []
    assert differing(one_by_one.optimizer.state_dict(), together.optimizer.state_dict()) == []
    for seed, other in zip(seeds, others, strict=True):
        for name, tensor in seed.graft.state_dict().items():
            torch.testing.assert_close(
                other.graft.state_dict()[name], tensor, rtol=tolerance, atol=tolerance
            )
        assert seed.stream is not None
        assert other.stream is not None
        assert torch.equal(seed.stream.state, other.stream.state)
        assert seed.gradients.steps == other.gradients.steps == STEPS


@pytest.mark.parametrize("host", HOSTS)
@settings(max_examples=4, deadline=None)
@given(data=st.data())
def test_losses_and_kernels_are_those_of_passes_one_by_one(host: Host, data: Any) -> None:
    one = st.tuples(st.sampled_from(HOSTS[host][3]), st.sampled_from((None, "per_channel")))
    candidates = data.draw(st.lists(one, min_size=2, max_size=4))
    trained_both_ways(host, candidates, torch.float64, 1e-8)


@pytest.mark.parametrize("host", HOSTS)
def test_they_agree_in_single_precision_too(host: Host) -> None:
    blueprints = HOSTS[host][3]
    candidates = [(blueprint, None) for blueprint in blueprints]
    trained_both_ways(host, [*candidates, (blueprints[0], "confidence_gated")], torch.float32, 2e-3)


def test_a_candidate_that_reads_its_neighbours_output_is_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def neighbours(info: Any, in_dims: Any, index: Tensor, stack: Tensor) -> tuple[Tensor, int]:
        return stack.roll(1, dims=0), 0

    monkeypatch.setattr(batched_shadow._OneForEach, "vmap", staticmethod(neighbours))
    with pytest.raises(AssertionError):
        trained_both_ways("mlp", [("BP021", None), ("BP009", None)], torch.float64, 1e-8)


def test_accumulated_batches_are_learned_from_together() -> None:
    one_by_one, together = plot_of("mlp"), plot_of("mlp", shadow_mode="batched")
    for plot in (one_by_one, together):
        planted(plot, [("BP021", None), ("BP014", None)])
        for index in range(5):
            plot.executor.after_step(MicroBatches([plot.batches[index], plot.batches[index + 1]]))
    for seed in one_by_one.executor.seeds.values():
        other = together.executor.seeds[seed.id]
        torch.testing.assert_close(
            other.gradients.last_norm, seed.gradients.last_norm, rtol=1e-8, atol=0.0
        )


# -- in a run --------------------------------------------------------------------------------------


def passes_of(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Return a list that is told of every batched pass: the ids of its seeds."""
    done: list[list[str]] = []

    def counted(call: Any, seeds: list[Seed], *given: Any, **how: Any) -> Tensor:
        done.append([seed.id for seed in seeds])
        return batched_shadow_step(call, seeds, *given, **how)

    monkeypatch.setattr(shadow_training, "batched_shadow_step", counted)
    return done


@pytest.mark.parametrize("host", HOSTS)
def test_a_run_batches_its_candidates_and_its_host_is_bitwise_untouched(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = passes_of(monkeypatch)
    alone, plot = plot_of(host), plot_of(host, shadow_mode="batched", isolation_every=4)
    seeds = planted(plot, [(blueprint, None) for blueprint in HOSTS[host][3]])
    torch.manual_seed(3)
    for index in range(9):
        plain_step(alone.model, alone.optimizer, alone.batches[index % 8])
    expected = torch.get_rng_state()
    torch.manual_seed(3)
    for index in range(9):
        plot.step(index)
    assert torch.equal(torch.get_rng_state(), expected)
    assert differing(alone.model.state_dict(), plot.model.state_dict()) == []
    assert differing(alone.optimizer.state_dict(), plot.optimizer.state_dict()) == []
    assert done == [[seed.id for seed in seeds]] * 6  # the 1st, 5th and 9th are looked at
    assert {seed.shadow_passes for seed in seeds} == {9}
    assert plot.executor.take_violations() == 0
    assert plot.executor.shadows.one_by_one == {}


def test_sequential_is_the_default_and_batches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    done = passes_of(monkeypatch)
    plot = plot_of("mlp")
    planted(plot, [("BP021", None), ("BP014", None)])
    plot.step(0)
    plot.step(1)
    assert done == []


def test_candidates_at_two_sites_share_a_pass_with_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done = passes_of(monkeypatch)
    batches = [(inputs.double(), targets) for inputs, targets in make_batches("mlp")]
    plot = Plot(
        "mlp", model=mlp_host().double(), sites={"here": "0", "late": "2"}, batches=batches,
        shadow_mode="batched", dwell_steps=10**6,
    )  # fmt: skip
    wanted = [("here", "BP021"), ("late", "BP021"), ("here", "BP014"), ("late", "BP009")]
    plot.executor.germinate([Candidate(site, blueprint) for site, blueprint in wanted])
    plot.step(0)
    plot.step(1)
    assert done == [["s1", "s3"], ["s2", "s4"]]
    plot.executor.hold(plot.executor.seeds["s3"], paused=True)
    plot.step(2)
    assert done[2:] == [["s2", "s4"]]


def test_a_shared_pass_is_billed_once_for_what_is_shared() -> None:
    one_by_one, together = plot_of("conv"), plot_of("conv", shadow_mode="batched")
    bills = []
    for plot in (one_by_one, together):
        planted(plot, [("BP003", None)] * 4)
        plot.step(0)
        first = plot.executor.compute.shadow_macs
        plot.step(1)
        bills.append(plot.executor.compute.shadow_macs - first)
        assert plot.executor.compute.shadow_passes == 8
    samples, prefix = 16, 6 * 6 * 8 * 2 * 9  # of multiply-accumulates a sample, in the stem
    assert bills[0] - bills[1] == 3 * samples * prefix


def test_a_culled_candidates_shared_bill_is_forgotten() -> None:
    plot = plot_of("mlp", shadow_mode="batched")
    planted(plot, [("BP021", None), ("BP014", None), ("BP009", None)])
    plot.step(0)
    plot.step(1)
    plot.executor.cull("s2", "enough")
    plot.step(2)
    names = plot.executor.compute.state_dict()["a_sample"].keys()
    assert names == {"host", "s1", "s3", "s1 s3"}


# -- where it may not be ---------------------------------------------------------------------------


def reason_of(plot: Plot) -> str:
    """Return why two candidates of a plot do not learn together."""
    plot.plant("BP021", "BP014")
    plot.step(0)
    plot.step(1)
    return plot.executor.shadows.one_by_one.get("here", "")


@pytest.mark.parametrize("kind", CASES)
def test_a_host_with_batch_statistics_and_dropout_goes_on_one_by_one(kind: Kind) -> None:
    first, second = CASES[kind].blueprints
    plots = [Plot(kind, dwell_steps=10**6, shadow_mode=mode) for mode in ("sequential", "batched")]
    for plot in plots:
        torch.manual_seed(7)
        plot.plant(first, second)
        for index in range(4):
            plot.step(index)
    assert "here" in plots[1].executor.shadows.one_by_one
    one, other = (plot.executor.state_dict() for plot in plots)
    assert differing(one, other) == []


class Noisy(nn.Module):
    """Adds noise to what it is given."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return the rows (N, F) with noise."""
        return rows + 0.1 * torch.randn_like(rows)


class Counts(nn.Module):
    """Counts its calls in a buffer."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, rows: Tensor) -> Tensor:
        """Return the rows."""
        self.calls += 1
        return rows


class Asks(nn.Module):
    """Takes a branch on a value."""

    def forward(self, rows: Tensor) -> Tensor:
        """Return the rows, or their opposite."""
        return rows if float(rows.detach().sum()) > 0 else -rows


@pytest.mark.parametrize(
    ("odd", "before", "reason"),
    [
        (Noisy(), False, "random numbers"),
        (Noisy(), True, "random numbers"),
        (Counts(), False, "writes its buffers"),
        (Counts(), True, "writes its buffers"),
        (Asks(), False, "cannot be mapped"),
        (nn.BatchNorm1d(8), False, "copies of its buffers differ"),
        (nn.BatchNorm1d(8, track_running_stats=False), False, ""),
    ],
)
def test_what_cannot_be_mapped_over_candidates_is_named(
    odd: nn.Module, before: bool, reason: str
) -> None:
    layers = [nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)]
    model = nn.Sequential(*layers[:1], *([odd] if before else []), layers[1], *(
        [] if before else [odd]), layers[2])  # fmt: skip
    site = "2" if before else "1"
    plot = Plot("mlp", model=model, sites={"here": site}, shadow_mode="batched", dwell_steps=10**6)
    assert reason in reason_of(plot)


def test_a_site_that_is_called_twice_goes_on_one_by_one() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.widen, self.inner, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, rows: Tensor) -> Tensor:
            logits: Tensor = self.head(self.inner(self.inner(self.widen(rows))))
            return logits

    sites = {"here": "inner"}
    plot = Plot("mlp", model=Twice(), sites=sites, shadow_mode="batched", dwell_steps=10**6)
    assert reason_of(plot) != ""


def test_a_frozen_batch_norm_does_not_keep_candidates_apart() -> None:
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8).eval(), nn.Linear(8, 3))
    plot = Plot("mlp", model=model, sites={"here": "0"}, shadow_mode="batched", dwell_steps=10**6)
    assert reason_of(plot) == ""
    model.train()
    plot.step(2)
    assert "here" in plot.executor.shadows.one_by_one
    model[1].eval()
    plot.executor.seeds["s2"].buffers["1.running_mean"].add_(1.0)
    plot.step(3)
    assert "copies of its buffers differ" in plot.executor.shadows.one_by_one["here"]


def test_a_kernel_with_buffers_of_its_own_learns_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    done = passes_of(monkeypatch)
    plot = plot_of("mlp", torch.float32, shadow_mode="batched")
    plot.plant("BP021", "BP045", "BP014", "BP001")
    plot.step(0)
    plot.step(1)
    assert done == [["s1", "s3"]]


def test_kernels_trained_in_half_precision_go_on_one_by_one() -> None:
    plot = plot_of("mlp", torch.float32, shadow_mode="batched")
    plot.branch.precision = Precision("bf16-mixed")
    assert "half precision" in reason_of(plot)


def test_whether_candidates_share_is_asked_once_and_touches_nothing() -> None:
    plot = plot_of("conv", torch.float32)
    seeds = planted(plot, [("BP009", None), ("BP003", None)])
    before = copy.deepcopy(plot.executor.state_dict())
    state = torch.get_rng_state()
    call = plot.executor._call
    assert why_one_by_one(call, seeds, plot.batches[0], F.cross_entropy) == ""
    assert torch.equal(torch.get_rng_state(), state)
    assert differing(before, plot.executor.state_dict()) == []


def test_a_resumed_run_batches_on_bitwise() -> None:
    def later(plot: Plot) -> Any:
        for index in range(3, 9):
            plot.step(index)
        return plot.executor.state_dict()

    whole, resumed = (plot_of("conv", torch.float32, shadow_mode="batched") for _ in range(2))
    planted(whole, [("BP009", None), ("BP003", None)])
    for index in range(3):
        whole.step(index)
    resumed.executor.load_state_dict(copy.deepcopy(whole.executor.state_dict()))
    one, other = later(whole), later(resumed)
    assert differing(one, other) == []
