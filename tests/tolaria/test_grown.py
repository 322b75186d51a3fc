"""A grown network can be taken out of a run and put into a fresh host."""

import copy
from contextlib import closing, suppress
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from esper_async import load_grown
from esper_async.kasmina.call import default_forward
from esper_async.kasmina.kernels import build_kernel
from esper_async.kasmina.kernels.graft import (
    BLEND_MODES,
    BlendMode,
    Graft,
    attach,
)
from esper_async.kasmina.sites import find_sites
from esper_async.tolaria.control import Steer
from esper_async.tolaria.engine import Engine
from esper_async.tolaria.grown import GrownModelError, save_grown
from esper_async.tolaria.outcome import Outcome
from tests.growth_hosts import Kind, differing, make_batches, make_host
from tests.tolaria.growth_tasks import BLUEPRINTS, listed
from tests.tolaria.test_engine import Script, options


def trained(folder: Path, kind: Kind = "mlp", control: Script | None = None) -> Outcome:
    engine = Engine(listed(kind), options(), folder=folder, control=control, blueprints=BLUEPRINTS)
    with closing(engine):
        return engine.run()


def test_a_run_leaves_its_grown_network_for_a_fresh_host(tmp_path: Path) -> None:
    grown = trained(tmp_path).grower.model
    fresh = load_grown(make_host("mlp"), tmp_path / "model.pt")
    assert any(".esper_s" in f".{name}" for name, _ in fresh.named_modules())
    assert differing(dict(grown.state_dict()), dict(fresh.state_dict())) == []
    inputs, _ = make_batches("mlp", count=1)[0]
    assert torch.equal(grown.eval()(inputs), fresh.eval()(inputs))


@pytest.mark.parametrize("mode", BLEND_MODES)
def test_a_grown_network_survives_copies_files_programs_and_the_compiler(
    mode: BlendMode, tmp_path: Path
) -> None:
    grown = grown_with(mode).eval()
    inputs, _ = make_batches("mlp", count=1)[0]
    output = grown(inputs)
    fresh = grown_with(mode, alpha=0.0).eval()
    assert not torch.equal(fresh(inputs), output)
    torch.save(grown.state_dict(), tmp_path / "weights.pt")
    fresh.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True), strict=True)
    torch.save(grown, tmp_path / "whole.pt")
    whole = torch.load(tmp_path / "whole.pt", weights_only=False)
    for other in (fresh, whole, copy.deepcopy(grown)):
        assert torch.equal(other(inputs), output)
    batch = torch.export.Dim("batch", min=2)
    program = torch.export.export(grown, (inputs,), dynamic_shapes=({0: batch},), strict=True)
    torch.export.save(program, tmp_path / "program.pt2")
    loaded = torch.export.load(tmp_path / "program.pt2").module()
    torch.testing.assert_close(loaded(inputs), output)
    torch.testing.assert_close(loaded(inputs[:3]), grown(inputs[:3]))
    assert torch.equal(torch.compile(grown, backend="eager")(inputs), output)


def grown_with(mode: BlendMode, alpha: float = 0.7) -> nn.Module:
    """Return a host with a kernel that is blended in by a mode, behind a row."""
    host = make_host("mlp")
    (site,) = find_sites(host, default_forward, make_batches("mlp")[0], {"here": "body"})
    blueprint = "BP014" if mode == "convex" else "BP021"
    kernel = build_kernel(blueprint, site.interface, seed=1)
    graft = Graft(kernel, form=site.form, mode=mode, channels=site.interface.channels)
    with torch.no_grad():
        for number, parameter in enumerate(graft.parameters(), start=1):
            parameter.add_(0.1 * number)
    graft.set_alpha(alpha)
    attach(host.get_submodule(site.path), graft, "esper_s1")
    return host


def test_another_host_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    trained(tmp_path)
    other = make_host("conv2d")
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(GrownModelError, match=r"no '.*' to plant at|not the architecture"):
        load_grown(other, tmp_path / "model.pt")
    assert differing(before, dict(other.state_dict())) == []


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("not a network")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    for name in ("text.pt", "other.pt"):
        with pytest.raises(GrownModelError, match="is no grown network"):
            load_grown(make_host("mlp"), tmp_path / name)


_ODD = st.recursive(
    st.none() | st.integers(-3, 3) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
_KEYS = ("site", "blueprint", "parameters", "mode", "attribute", "name", "path", "interface")


@settings(
    max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(weights=_ODD, seeds=_ODD | st.lists(st.dictionaries(st.sampled_from(_KEYS), _ODD)))
def test_a_file_that_says_something_else_is_refused_and_the_host_left_alone(
    tmp_path: Path, weights: object, seeds: object
) -> None:
    host = make_host("mlp")
    before = copy.deepcopy(host.state_dict())
    for document in (weights, {"format": 1, "weights": weights, "seeds": seeds},
                     {"format": 1, "weights": before, "seeds": seeds}):  # fmt: skip
        torch.save(document, tmp_path / "odd.pt")
        with suppress(GrownModelError):
            load_grown(host, tmp_path / "odd.pt")
        assert differing(before, host.state_dict()) == []


def test_a_network_with_a_seed_on_trial_is_not_saved(tmp_path: Path) -> None:
    class UntilTrial(Script):
        engine: Engine | None = None

        def poll(self) -> list[Steer]:
            executor = None if self.engine is None else self.engine.grower.executor
            return [Steer("drain")] if executor is not None and executor.trial is not None else []

    control = UntilTrial()
    control.engine = Engine(listed(), options(), control=control, blueprints=BLUEPRINTS)
    grower = control.engine.run().grower
    with pytest.raises(GrownModelError, match=r"still on trial; call finish\(\)"):
        save_grown(grower, tmp_path / "model.pt")
    assert not (tmp_path / "model.pt").exists()
