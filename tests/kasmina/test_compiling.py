"""Hosts that are compiled, in whole or in regions, grow as plain ones do, and say what it costs."""

import copy
import io
from typing import Any

import pytest
import torch
import torch._dynamo.utils
from torch import Tensor, nn

from esper_async.kasmina.compiling.choice import CompileError, Compiling
from esper_async.kasmina.compiling.host import HostCompiler
from esper_async.kasmina.compiling.likeness import likeness
from esper_async.kasmina.compiling.region import CompiledForward
from esper_async.kasmina.stage import Stage
from tests.growth_hosts import differing, plain_step
from tests.kasmina.compiled_plots import (
    BORDER,
    INSIDE,
    ROW_END,
    Block,
    CompiledPlot,
    blend,
    block_host,
    compiler,  # noqa: F401 - used by every test
    inputs,
)
from tests.kasmina.plots import Plot

FIRST = ["the first step"]


pytestmark = pytest.mark.usefixtures("compiler")


def state_of(plot: Plot) -> dict[str, object]:
    """Return the weights and optimizer state of a plot."""
    return copy.deepcopy(
        {"model": dict(plot.model.state_dict()), "optimizer": plot.optimizer.state_dict()}
    )


# -- a seed at a border, and inside -------------------------------------------------------------


@pytest.mark.parametrize("sites", [BORDER, ROW_END], ids=["a block", "the end of a row"])
def test_a_seed_at_a_border_is_planted_blended_kept_and_culled_without_a_recompilation(
    sites: dict[str, str],
) -> None:
    plot = CompiledPlot(sites=sites, g4_margin=-1e9)
    plot.plant("BP021")
    plot.until("FOSSILIZED")
    plot.moves.clear()
    plot.plant("BP014")
    plot.until("BLENDING")
    plot.epoch()
    plot.executor.cull("s2", "it was asked for")
    plot.epoch()
    assert plot.causes == FIRST
    assert plot.compiler.recompiles == 0


def test_a_seed_inside_a_region_costs_one_pause_as_it_is_blended_and_none_as_it_leaves() -> None:
    plot = CompiledPlot(sites=INSIDE)
    plot.plant("BP021")
    plot.until("BLENDING")
    assert plot.causes == FIRST
    plot.epoch()
    assert plot.causes == [*FIRST, "seed s1 joined inside 'blocks.0'"]
    assert plot.pauses[-1].recompiles == plot.pauses[-1].compilations == 1
    plot.executor.cull("s1", "it was asked for")
    plot.epoch()
    assert len(plot.pauses) == 2


@pytest.mark.parametrize(
    ("mode", "sites"),
    [("regions", BORDER), ("regions", ROW_END), ("regions", INSIDE), ("model", INSIDE)],
    ids=["a block", "the end of a row", "inside a block", "inside the whole"],
)
def test_a_compiled_host_is_what_the_plain_one_is_with_the_seed_in_its_forward_pass(
    mode: str, sites: dict[str, str]
) -> None:
    plain = Plot("mlp", model=block_host(), sites=sites)
    compiled = CompiledPlot(mode, sites=sites)  # type: ignore[arg-type]
    for plot in (plain, compiled):
        blend(plot)
    assert compiled.executor.in_stage(*Stage)[0].alpha == 1.0
    assert differing(state_of(plain), state_of(compiled)) == []
    # the seed is not only learning: it is in the compiled output
    rows = inputs()
    with torch.no_grad():
        for plot in (plain, compiled):
            plot.model.eval()
        on = compiled.model(rows)
        assert torch.equal(on, plain.model(rows))
        compiled.executor.trial.seed.graft.set_alpha(0.0)  # type: ignore[union-attr]
        assert not torch.equal(compiled.model(rows), on)


class Talking(Block):
    """A block that cannot be traced as a whole: a value is looked at in the middle."""

    def forward(self, hidden: Tensor) -> Tensor:
        """Add a change to the activation (N, 8), whatever its sum is."""
        change: Tensor = self.drop(torch.relu(self.norm(self.up(hidden))))
        if float(change.detach().sum()) > -1e9:
            change = self.up(change)
        return hidden + change


def talking_host() -> nn.Module:
    """Return a host whose blocks break the graph before their inner site is called again."""
    host = block_host()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        host.blocks = nn.ModuleList([Talking(), Talking()])
    return host


def test_a_seed_is_in_the_forward_pass_also_behind_a_break_of_the_graph() -> None:
    plain = Plot("mlp", model=talking_host(), sites=INSIDE)
    compiled = CompiledPlot("model", model=talking_host(), sites=INSIDE)
    for plot in (plain, compiled):
        blend(plot)
    assert differing(state_of(plain), state_of(compiled)) == []


# -- what must not notice ------------------------------------------------------------------------


def test_shadow_passes_and_evaluations_run_the_host_as_it_is_written() -> None:
    plot = CompiledPlot("model", g2_margin=1e9)  # none is blended
    plot.step(0)
    plot.plant("BP021", "BP014")
    for _ in range(2):
        plot.epoch()
    assert plot.causes == FIRST
    plot.batches = [(rows[:3], labels[:3]) for rows, labels in plot.batches]
    plot.step(0)  # what counts the cost of a pass would have let dynamo skip the region for good
    assert len(plot.pauses) == 2


def test_the_host_of_a_seed_in_training_is_bitwise_one_without_a_seed() -> None:
    alone, grown = CompiledPlot("model"), CompiledPlot("model")
    grown.plant("BP021")
    for plot in (alone, grown):
        torch.manual_seed(5)
        for index in range(4):
            plot.step(index)
    assert differing(state_of(alone), state_of(grown)) == []


def test_a_twin_runs_the_programs_that_are_there() -> None:
    plot = CompiledPlot(sites=INSIDE)
    plot.plant("BP021")
    plot.until("BLENDING")
    trial = plot.executor.trial
    assert trial is not None
    twin = trial.twin.model
    assert isinstance(twin.blocks[0].forward, CompiledForward)  # type: ignore[index, union-attr]
    before = copy.deepcopy(dict(twin.state_dict()))
    plot.epoch()
    assert differing(before, dict(twin.state_dict()))
    assert plot.pauses[-1].compilations == 1  # the host's own, with the seed


def test_the_names_of_a_compiled_host_are_those_of_the_plain_one() -> None:
    plot = CompiledPlot("model")
    plot.step(0)
    assert list(plot.model.state_dict()) == list(block_host().state_dict())


def test_a_copy_and_a_pickle_of_a_compiled_host_are_plain_and_their_own() -> None:
    plot = CompiledPlot()
    plot.plant("BP021")
    plot.until("BLENDING")
    plot.epoch()
    plot.model.eval()
    stored = io.BytesIO()
    torch.save(plot.model, stored)
    stored.seek(0)
    rows = inputs()
    whole = plot.model(rows)
    for other in (copy.deepcopy(plot.model), torch.load(stored, weights_only=False)):
        assert torch.equal(other(rows), whole)
        nn.init.zeros_(other.blocks[0].up.weight)
        assert not torch.equal(other(rows), whole)
        assert torch.equal(plot.model(rows), whole)


def test_a_compiled_host_can_be_exported() -> None:
    plot = CompiledPlot("model", sites=INSIDE)
    plot.plant("BP021")
    plot.until("BLENDING")
    plot.epoch()
    plot.model.eval()
    program = torch.export.export(plot.model, (inputs(),), strict=False)
    assert torch.equal(program.module()(inputs()), plot.model(inputs()))


def test_what_was_compiled_runs_plainly_once_it_is_closed() -> None:
    plot = CompiledPlot()
    plot.compiler.close()
    before = torch._dynamo.utils.counters["frames"]["total"]
    plain_step(plot.model, plot.optimizer, plot.batches[0])
    assert not any("forward" in part.__dict__ for part in plot.model.modules())
    assert torch._dynamo.utils.counters["frames"]["total"] == before


# -- the limit of recompilations -----------------------------------------------------------------


@torch._dynamo.config.patch(recompile_limit=2)
def test_that_torch_gives_up_is_told() -> None:
    plot = CompiledPlot("model")
    for size in (16, 15, 14, 13, 12):
        plot.batches = [(rows[:size], labels[:size]) for rows, labels in plot.batches]
        plot.step(0)
    told = [pause for pause in plot.pauses if pause.given_up]
    assert len(told) == 1
    assert "region_" in told[0].given_up[0]
    assert "compile_regions" in told[0].surrender
    assert plot.compiler.recompiles == 1


@torch._dynamo.config.patch(recompile_limit=2)
def test_trials_inside_a_region_never_come_to_the_limit() -> None:
    plot = CompiledPlot("model", sites=INSIDE, embargo_boundaries=0)
    for number in range(1, 4):
        plot.moves.clear()
        plot.plant("BP021")
        plot.until("BLENDING")
        plot.step(0)
        plot.executor.cull(f"s{number}", "it was asked for")
        plot.epoch()
    assert [pause.given_up for pause in plot.pauses] == [()] * 4
    assert plot.compiler.recompiles == 3


def test_a_region_that_is_not_compiled_is_told_once() -> None:
    plot = CompiledPlot(regions=["stem", "blocks.1"])
    plot.model.stem = nn.Linear(6, 8)  # what was to be compiled is never called
    for index in range(4):
        plot.step(index)
    (told,) = [pause for pause in plot.pauses if pause.given_up]
    assert told.given_up == ("'stem'",)
    assert "never called" in told.surrender


def test_counting_goes_on_after_a_reset_of_the_compiler() -> None:
    plot = CompiledPlot()
    plot.step(0)
    torch.compiler.reset()
    plot.step(1)
    plot.step(2)
    assert len(plot.pauses) == 2


# -- what is compiled ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("sites", "regions"),
    [
        ([], [""]),
        (["blocks.0", "blocks.1"], ["stem", "blocks.0", "blocks.1"]),
        (["stem.2", "blocks.0.up"], ["stem", "blocks.1"]),
        (["stem.0", "blocks.0"], ["blocks.0", "blocks.1"]),
    ],
)
def test_regions_are_the_largest_parts_without_a_site_inside(
    sites: list[str], regions: list[str]
) -> None:
    plan = Compiling(mode="regions", backend="eager").plan(block_host(), sites)
    assert list(plan) == regions


def test_what_is_never_called_is_no_region() -> None:
    compiling = Compiling(mode="regions", backend="eager")
    called = {"stem", "stem.0", "blocks.1", "head"}
    assert list(compiling.plan(block_host(), ["blocks.1"], lambda: called)) == ["stem", "blocks.1"]


def test_regions_are_named_by_patterns() -> None:
    compiling = Compiling(mode="regions", regions=["blocks.*", "stem"], backend="eager")
    assert list(compiling.plan(block_host())) == ["blocks.0", "blocks.1", "stem"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mode": "all"}, "compile knows no 'all'; known: off, regions, model"),
        ({"mode": "model", "regions": ["stem"]}, 'set compile = "regions"'),
        ({"mode": "regions", "regions": "stem"}, r"a list of submodule paths, like \['stem'\]"),
        ({"mode": "regions", "regions": ["steem"]}, "no submodule 'steem'; did you mean 'stem'"),
        ({"mode": "regions", "regions": ["blocks"]}, r"only a list of modules.*'blocks\.\*'"),
        ({"mode": "regions", "regions": ["stem", "stem.0"]}, "'stem.0' lies inside 'stem'"),
        ({"mode": "model", "backend": "indctor"}, "no 'indctor'; did you mean 'inductor'"),
    ],
)
def test_what_cannot_be_compiled_is_refused_with_what_would_be_right(
    settings: dict[str, object], message: str
) -> None:
    with pytest.raises(CompileError, match=message):
        Compiling(**{"backend": "eager", **settings}).plan(block_host())  # type: ignore[arg-type]


def test_a_host_without_a_part_between_its_sites_is_refused() -> None:
    host = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.raises(CompileError, match='set compile = "model"'):
        Compiling(mode="regions", backend="eager").plan(host, ["0"])


def test_a_module_with_a_forward_pass_of_its_own_is_no_region() -> None:
    host = block_host()
    plain = host.stem.forward
    host.stem.forward = lambda rows: plain(rows) + 1.0
    found = Compiling(mode="regions", backend="eager").plan(host, ["blocks.0", "blocks.1"])
    assert list(found) == ["blocks.0", "blocks.1"]
    with pytest.raises(CompileError, match=r"'stem' cannot be compiled.*Sequential\.forward"):
        Compiling(mode="regions", regions=["stem"], backend="eager").plan(host)


def test_a_row_that_somebody_else_looks_into_has_its_border_outside() -> None:
    host = block_host()
    host.stem[2].register_forward_hook(lambda *_: None)
    plan = Compiling(mode="regions", backend="eager").plan(host, ["stem.2"])
    assert list(plan) == ["blocks.0", "blocks.1"]


def test_a_missing_c_compiler_is_told_beforehand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(CompileError, match=r'apt-get install g\+\+.*"aot_eager"'):
        Compiling(mode="model").plan(block_host())


def test_blocks_that_are_alike_share_a_program_until_a_seed_comes_into_one() -> None:
    plot = CompiledPlot(regions=["blocks.*"], sites=INSIDE)
    plot.plant("BP021")
    plot.until("BLENDING")
    plot.epoch()
    assert [pause.compilations for pause in plot.pauses] == [1, 1]


def test_blocks_with_other_settings_shapes_or_hooks_are_not_alike() -> None:
    def changed(**settings: Any) -> Block:
        block = Block()
        for name, value in settings.items():
            setattr(block, name, value)
        return block

    alike = [Block(), Block(), changed(scale=2), changed(scale=2)]
    assert likeness(alike[0]) == likeness(alike[1])
    assert likeness(alike[2]) == likeness(alike[3])
    hooked = Block()
    hooked.up.register_forward_hook(lambda *_: None)
    others = [
        Block(), hooked, changed(scale=2), changed(scale=2.0), changed(scale=[2]),
        changed(up=nn.Linear(8, 8, bias=False)), changed(drop=nn.Identity()),
    ]  # fmt: skip
    assert len({likeness(block) for block in others}) == len(others)


def test_one_compiler_serves_a_branch_once() -> None:
    plot = CompiledPlot()
    paths = plot.compiler.paths
    plot.compiler.install(["head"])
    assert plot.compiler.paths == paths == ["stem", "blocks.0", "blocks.1"]
    off = HostCompiler(Plot("mlp").branch, Compiling())
    off.install()
    off.after_step()
    assert off.paths == off.take() == []
