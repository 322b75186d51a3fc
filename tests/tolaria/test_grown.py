"""A grown network can be taken out of a run and put into a fresh host."""

from contextlib import closing
from pathlib import Path

import pytest
import torch

from esper_async import load_grown
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
