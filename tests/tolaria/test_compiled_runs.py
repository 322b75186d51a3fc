"""Runs and loops whose host is compiled: the same results, what it costs told, names unchanged."""

import copy
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from esper_async import Compiling, grow, load_grown
from esper_async.kasmina.compiling.choice import CompileError
from esper_async.kasmina.kernels.graft import grafts_of
from esper_async.tolaria.control import Steer
from esper_async.tolaria.grown import GrownModelError
from esper_async.tolaria.telemetry import points_of
from tests.growth_hosts import differing
from tests.kasmina.compiled_plots import (
    block_host,
    compiler,  # noqa: F401 - used by every test
    inputs,
)
from tests.tolaria.growth_tasks import BLUEPRINTS, QUICK, listed
from tests.tolaria.test_check import checked
from tests.tolaria.test_engine import Script, kinds, run, weights
from tests.tolaria.test_grower import Loop

INSIDE = {"inner": "blocks.0.up"}
BORDER = {"block": "blocks.0"}


pytestmark = pytest.mark.usefixtures("compiler")


def blocks(model: Any = None, **changes: Any) -> Any:
    """Return a task with a host of blocks."""
    return listed(model=model or block_host(), **{"sites": BORDER, **changes})


def compiled(**changes: Any) -> dict[str, Any]:
    """Return options of a compiled run; the backend runs what was traced, to the bit."""
    regions = {} if changes.get("compile") else {"compile_regions": ["stem", "blocks.*"]}
    return {"compile": "regions", "compile_backend": "eager", **regions, **changes}


@pytest.mark.parametrize("sites", [BORDER, INSIDE], ids=["border", "inside"])
def test_a_compiled_run_ends_as_the_plain_one_and_tells_what_it_waited_for(
    sites: dict[str, str],
) -> None:
    plain, _ = run(blocks(sites=sites))
    outcome, records = run(blocks(sites=sites), **compiled())
    assert differing(weights(plain), weights(outcome)) == []
    assert outcome.grower.executor is not None
    joined = [r for r in kinds(records, "transition") if r["to_stage"] == "BLENDING"]
    assert joined
    (started,) = kinds(records, "run_started")
    assert started["compiled"] == ["stem", "blocks.0", "blocks.1"]
    told = [record["cause"] for record in kinds(records, "compilation")]
    pauses = [f"seed {record['seed']} joined inside 'blocks.0'" for record in joined]
    assert told == ["the first step", *(pauses if sites is INSIDE else [])]
    assert all(record["ms"] > 0 for record in kinds(records, "compilation"))


def test_the_records_become_a_count_of_recompilations() -> None:
    _, records = run(blocks(sites=INSIDE), **compiled())
    points = [p for r in records for p in points_of(r, loss_unit="nats")]
    counted = sum(p.value for p in points if p.name == "tolaria.recompiles")
    assert counted == len(kinds(records, "compilation")) - 1 > 0
    assert sum(p.name == "tolaria.compile.duration_ms" for p in points) == counted + 1


def test_a_compiled_run_resumes_to_the_bit_with_a_seed_inside(tmp_path: Path) -> None:
    settings = compiled(compile="model")
    whole, _ = run(blocks(sites=INSIDE), **settings)
    run(blocks(sites=INSIDE), tmp_path, Script({33: [Steer("drain")]}), **settings)
    rest, records = run(blocks(sites=INSIDE), tmp_path, **settings)
    assert kinds(records, "compilation")[0]["cause"] == "the first step"
    assert differing(weights(whole), weights(rest)) == []


def test_a_run_that_goes_back_trains_on_in_its_regions(tmp_path: Path) -> None:
    def gone_back(name: str, **settings: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        control = Script({38: [Steer("rollback")]})
        outcome, records = run(blocks(sites=INSIDE), tmp_path / name, control, **settings)
        assert kinds(records, "rolled_back")
        return weights(outcome), records

    plain, _ = gone_back("plain")
    grown, records = gone_back("compiled", **compiled())
    assert differing(plain, grown) == []
    assert len({record["step"] for record in kinds(records, "compilation")}) > 1


def test_a_model_that_was_compiled_before_is_grown_and_comes_back_plain(tmp_path: Path) -> None:
    host = block_host()
    task = blocks(torch.compile(host, backend="eager"), sites=INSIDE)
    result = grow(
        task, epochs=12, seed=3, threads=1, growth=QUICK, blueprints=BLUEPRINTS,
        state_dir=None, folder=tmp_path, progress=False,
    )  # fmt: skip
    assert result.model is host
    assert grafts_of(host)
    plain, _ = run(blocks(sites=INSIDE))
    assert differing(weights(plain), dict(host.state_dict())) == []
    fresh = load_grown(block_host(), tmp_path / "model.pt").eval()
    assert torch.equal(fresh(inputs()), host.eval()(inputs()))
    with pytest.raises(GrownModelError, match="compile it afterwards"):
        load_grown(torch.compile(block_host(), backend="eager"), tmp_path / "model.pt")
    program = torch.export.export(host, (inputs(),))
    assert torch.equal(program.module()(inputs()), host(inputs()))


@pytest.mark.full
def test_a_baseline_is_compiled_as_the_run_is() -> None:
    task = blocks(torch.compile(block_host(), backend="eager"), sites=INSIDE)
    result = grow(
        task, epochs=12, seed=3, threads=1, growth=QUICK, blueprints=BLUEPRINTS,
        state_dir=None, progress=False, baselines=True,
    )  # fmt: skip
    assert len(result.comparison) == 3


def test_a_network_that_does_not_grow_is_one_region() -> None:
    outcome, records = run(blocks(), policy="static", epochs=2, **compiled())
    plain, _ = run(blocks(), policy="static", epochs=2)
    assert [record["recompiles"] for record in kinds(records, "compilation")] == [0]
    assert differing(weights(plain), weights(outcome)) == []


# -- in a loop of one's own ----------------------------------------------------------------------


def test_a_loop_of_ones_own_trains_compiled_regions_and_is_told_of_pauses() -> None:
    compiling = Compiling(mode="regions", regions=["blocks.*"], backend="eager")
    loop = Loop(blocks(sites=INSIDE), compile=compiling, sites=INSIDE)
    plain = Loop(blocks(sites=INSIDE), sites=INSIDE)
    torch.manual_seed(5)
    pauses = [pause for _ in range(8) for pause in loop.epoch().pauses]
    torch.manual_seed(5)
    for _ in range(8):
        plain.epoch()
    assert [pause.recompiles for pause in pauses][:2] == [0, 1]
    assert loop.grower.compiler.recompiles == sum(pause.recompiles for pause in pauses)
    other = Loop(blocks(sites=INSIDE), compile=compiling, sites=INSIDE)
    other.grower.load_state_dict(copy.deepcopy(loop.grower.state_dict()))
    for each in (loop, plain, other):
        torch.manual_seed(6)
        each.epoch()
    models = [dict(each.task.model.state_dict()) for each in (loop, plain, other)]
    assert differing(models[0], models[1]) == differing(models[0], models[2]) == []
    loop.grower.uncompile()
    assert "forward" not in loop.task.model.blocks[0].__dict__


def test_a_loop_of_ones_own_that_gives_a_compiled_model_is_told_what_to_give() -> None:
    task = blocks()
    task.model = torch.compile(task.model, backend="eager")
    with pytest.raises(CompileError, match='with compile="model"'):
        Loop(task)


# -- check ---------------------------------------------------------------------------------------


def test_a_check_says_what_will_be_compiled_and_which_sites_are_inside() -> None:
    sites = {**INSIDE, "block": "blocks.1"}
    document = checked(
        lambda: blocks(sites=sites), "heuristic", compile="regions",
        compile_regions=["stem", "blocks.*"], compile_backend="eager",
    )  # fmt: skip
    assert document["problems"] == []
    assert document["compiled"] == {
        "backend": "eager",
        "regions": [
            {"path": "stem", "sites_inside": []},
            {"path": "blocks.0", "sites_inside": ["inner"]},
            {"path": "blocks.1", "sites_inside": []},
        ],
    }
    assert checked(blocks, "heuristic")["compiled"] is None


def test_a_check_tells_of_a_region_that_is_not_there() -> None:
    wrong = {"compile": "regions", "compile_regions": ["steem"], "compile_backend": "eager"}
    (problem,) = checked(blocks, "heuristic", **wrong)["problems"]
    assert "did you mean 'stem'?" in problem


# -- the real compiler ---------------------------------------------------------------------------


@pytest.mark.full
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++ (apt-get install g++)")
def test_a_run_under_inductor_grows_and_learns_what_the_plain_one_does() -> None:
    def host() -> nn.Module:
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return nn.Sequential(
                nn.Sequential(nn.Linear(6, 8), nn.ReLU()), nn.Linear(8, 8), nn.Linear(8, 3)
            )

    sites = {"end": "0.1"}
    settings: dict[str, Any] = {"epochs": 6, "growth": {"shadow_every": 2}}
    plain, _ = run(listed(model=host(), sites=sites), **settings)
    outcome, records = run(listed(model=host(), sites=sites), compile="regions", **settings)
    assert [record["cause"] for record in kinds(records, "compilation")] == ["the first step"]
    assert weights(plain).keys() == weights(outcome).keys()
    for name, tensor in weights(plain).items():
        torch.testing.assert_close(weights(outcome)[name], tensor, rtol=1e-3, atol=1e-3)
