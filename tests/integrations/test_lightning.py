"""Growth as a Lightning callback."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from lightning.pytorch.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async import Compiling
from esper_async.integrations.errors import MissingPackageError, UnsupportedLoopError
from esper_async.kasmina.kernels.graft import grafts_of
from esper_async.kasmina.stage import Stage
from tests.growth_hosts import differing
from tests.integrations.lightning_fits import (
    FOREVER,
    data,
    fit,
    make_callback,
    make_module,
    make_trainer,
    plain_host,
)
from tests.tolaria.growth_tasks import QUICK

pytestmark = [  # advice for larger runs than these, which depends on the machine
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]


@pytest.mark.parametrize("package", ["lightning.pytorch", "pytorch_lightning"])
def test_a_module_grows_under_either_name_of_the_package(package: str, certificates: Any) -> None:
    callback = make_callback(certificates)
    module = make_module(package)
    make_trainer(callback, package=package, max_epochs=12).fit(module, *data())
    moves = [move.target for report in callback.reports for move in report.transitions]
    assert {Stage.TRAINING, Stage.BLENDING, Stage.FOSSILIZED} <= set(moves)
    assert len(callback.reports) == 12
    assert grafts_of(module)
    assert callback.grower is not None
    assert callback.grower.boundaries == 12
    assert "twin_loss" in callback.grower.history[8]


@pytest.mark.parametrize("accumulate", [1, 4])
def test_the_host_is_bitwise_as_without_growth_while_seeds_train(
    accumulate: int, certificates: Any
) -> None:
    callback = make_callback(certificates, growth=FOREVER, boundaries=None)
    options = {"accumulate_grad_batches": accumulate, "max_epochs": 8}
    grown, plain = fit(callback, **options), fit(None, **options)
    assert callback.grower is not None
    assert callback.grower.executor is not None
    assert callback.grower.executor.compute.shadow_passes > 0
    assert differing(grown.state_dict(), plain.state_dict()) == []


def test_a_step_of_several_batches_is_one_step_of_growth(certificates: Any) -> None:
    callback = make_callback(certificates)
    steps: list[Any] = []
    callback._growth.after_step = steps.append  # type: ignore[method-assign]
    fit(callback, accumulate_grad_batches=4, max_epochs=2)
    assert [len(batches) for batches in steps] == [4, 2, 4, 2]


class TwinAtTheEnd:
    """What the twin of the last boundary is, before growth ends."""

    def __init__(self, callback: Any) -> None:
        self.weights: dict[str, Tensor] = {}
        finish = callback._growth.finish

        def look_first(loader: Any) -> None:
            trial = callback.grower.executor.trial
            state = trial.twin.model.state_dict()
            self.weights = {name: tensor.clone() for name, tensor in state.items()}
            finish(loader)

        callback._growth.finish = look_first


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_clip_val": 0.05, "accumulate_grad_batches": 4},
        {"gradient_clip_val": 0.01, "gradient_clip_algorithm": "value"},
        {"precision": "bf16-mixed"},
    ],
    ids=["plain", "norm-and-accumulation", "value", "bf16"],
)
def test_a_twin_goes_on_as_the_run_would_have(options: Any, certificates: Any) -> None:
    """It ends with the very bits of a run that never grew."""
    growth = {**QUICK, "dwell_steps": 4, "window_boundaries": 20, "max_windows": 20}
    callback = make_callback(certificates, growth=growth, boundaries=None)
    twin = TwinAtTheEnd(callback)
    fit(callback, host=plain_host(), max_epochs=12, **options)
    plain = fit(None, host=plain_host(), max_epochs=12, **options)
    assert twin.weights
    assert differing(twin.weights, dict(plain.state_dict())) == []


def test_a_batch_that_the_module_gives_up_teaches_no_seed(certificates: Any) -> None:
    callback = make_callback(certificates)
    module = make_module()
    step = module.training_step
    module.training_step = lambda batch, batch_idx: (
        None if batch_idx == 1 else step(batch, batch_idx)
    )
    with pytest.warns(UserWarning, match="returned `None`"):
        make_trainer(callback, max_epochs=2).fit(module, *data())
    assert callback.grower is not None
    assert callback.grower.executor is not None
    assert callback.grower.executor.steps == 2 * 5


def test_every_validation_is_a_boundary(certificates: Any) -> None:
    callback = make_callback(certificates)
    fit(callback, val_check_interval=0.5, max_epochs=3)
    assert [report.boundary for report in callback.reports] == [1, 2, 3, 4, 5, 6]


def test_of_several_validation_loaders_the_first_decides_within_the_trainers_limit(
    certificates: Any,
) -> None:
    train, validation = data()
    callback = make_callback(certificates, policy="static")
    short = make_callback(certificates, policy="static")
    fit(callback, loaders=(train, validation), max_epochs=1)
    fit(short, loaders=(train, validation), max_epochs=1, limit_val_batches=1)
    assert callback.reports[0].metrics != short.reports[0].metrics

    module = make_module()
    module.validation_step = lambda batch, batch_idx, dataloader_idx: None
    several = make_callback(certificates, policy="static")
    torch.manual_seed(11)
    make_trainer(several, max_epochs=1).fit(
        module, train, {"a": validation, "b": data(shuffle=False)[0]}
    )
    assert several.reports[0].metrics == callback.reports[0].metrics


def test_validation_batches_pass_the_modules_own_hooks(certificates: Any) -> None:
    module = make_module()
    module.on_after_batch_transfer = lambda batch, dataloader_idx: (batch[0] * 0, batch[1])
    callback = make_callback(certificates, policy="static")
    make_trainer(callback, max_epochs=1).fit(module, *data())
    module.cpu().eval()
    labels = torch.cat([batch[1] for batch in data()[1]])
    with torch.no_grad():
        expected = F.cross_entropy(module(torch.zeros(len(labels), 6)), labels)
    assert callback.reports[0].metrics["validation_loss"] == pytest.approx(float(expected))


def test_a_gradient_scaler_serves_the_run_and_none_of_its_twins(certificates: Any) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=512.0)  # type: ignore[attr-defined]
    plugin = MixedPrecision("16-mixed", "cpu", scaler)
    callback = make_callback(certificates)
    fit(callback, plugins=[plugin], max_epochs=12)
    assert callback.grower is not None
    assert callback.grower.executor is not None
    moves = [move.target for report in callback.reports for move in report.transitions]
    assert Stage.BLENDING in moves
    assert callback.grower._branch.precision.scaler(callback.grower.optimizer) is scaler
    assert scaler._growth_tracker == 12 * 6


class SameRandomNumbers(Callback):
    """Each epoch begins with the random state that it had the first time.

    Lightning's checkpoints hold none.
    """

    def __init__(self) -> None:
        self.states: dict[int, Tensor] = {}

    def on_train_batch_start(self, trainer: Any, module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 0:
            state = self.states.setdefault(trainer.current_epoch, torch.get_rng_state())
            torch.set_rng_state(state)


def checkpoints(folder: Path) -> ModelCheckpoint:
    return ModelCheckpoint(folder, "{epoch}", save_top_k=-1)


@pytest.mark.parametrize("epochs", [2, 5, 7, 9])
def test_a_fit_resumes_bitwise_from_a_checkpoint(
    epochs: int, tmp_path: Path, certificates: Any
) -> None:
    """Before growth, and with seeds in TRAINING, on trial, and kept."""
    random = SameRandomNumbers()

    def run(**resumed: Any) -> Any:
        callback = make_callback(certificates)
        module = make_module()
        torch.manual_seed(11)
        trainer = make_trainer(callback, random, checkpoints(tmp_path), max_epochs=12)
        trainer.fit(module, *data(shuffle=False), **resumed)
        return callback, module, trainer

    whole, module, trainer = run()
    path = tmp_path / f"epoch={epochs - 1}.ckpt"
    with pytest.warns(UserWarning, match="exists and is not empty"):
        resumed, other, trainer_after = run(ckpt_path=path)
    assert len(resumed.reports) == 12 - epochs
    assert differing(dict(module.state_dict()), dict(other.state_dict())) == []
    assert differing(whole.grower.state_dict(), resumed.grower.state_dict()) == []
    assert trainer.global_step == trainer_after.global_step


def test_a_checkpoint_of_other_seeds_is_not_evaluated(tmp_path: Path, certificates: Any) -> None:
    callback = make_callback(certificates)
    module = make_module()
    trainer = make_trainer(callback, checkpoints(tmp_path), max_epochs=12)
    trainer.fit(module, *data())
    trainer.save_checkpoint(tmp_path / "now.ckpt")
    trainer.test(module, data()[1], ckpt_path=tmp_path / "now.ckpt", verbose=False)
    with pytest.raises(UnsupportedLoopError, match="save_grown"):
        trainer.test(module, data()[1], ckpt_path=tmp_path / "epoch=1.ckpt", verbose=False)


def test_a_module_that_has_grown_is_not_grown_anew(certificates: Any) -> None:
    module = fit(make_callback(certificates), max_epochs=12)
    assert grafts_of(module)
    with pytest.raises(UnsupportedLoopError, match="seeds of an earlier run"):
        make_trainer(make_callback(certificates)).fit(module, *data())


def two_optimizers(module: Any) -> None:
    module.automatic_optimization = False
    module.configure_optimizers = lambda: [
        torch.optim.SGD(part.parameters(), lr=0.1) for part in (module.net.body, module.net.head)
    ]


class Sharded(SingleDeviceStrategy):
    strategy_name = "sharded"


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (two_optimizers, {}, "2 optimizers"),
        (None, {"limit_val_batches": 0}, "validation loader"),
        (None, {"precision": "64-true"}, "'32-true', 'bf16-mixed', '16-mixed'"),
        (None, {"strategy": Sharded(torch.device("cpu"))}, "devices=1"),
        (nn.Module.bfloat16, {}, "bfloat16"),
    ],
)
def test_what_growth_cannot_follow_is_refused_with_what_to_set(
    change: Any, options: Any, told: str, certificates: Any
) -> None:
    module = make_module()
    if change is not None:
        change(module)
    with pytest.raises(UnsupportedLoopError, match=told):
        make_trainer(make_callback(certificates), **options).fit(module, *data())


@pytest.mark.full
def test_a_callback_compiles_regions_of_the_module_and_seeds_grow_in_them(
    certificates: Any,
) -> None:
    weights, pauses = [], []
    for compiling in ("off", Compiling(mode="regions", regions=["net"], backend="eager")):
        module = make_module(host=plain_host())
        callback = make_callback(certificates, compile=compiling, sites={"trunk": "net.3"})
        torch.manual_seed(0)
        make_trainer(callback, max_epochs=12).fit(module, *data())
        assert callback.grower is not None
        assert callback.grower.executor is not None
        assert callback.grower.executor.kept
        callback.grower.uncompile()
        weights.append(dict(module.state_dict()))
        pauses.append([pause.cause for report in callback.reports for pause in report.pauses])
    assert differing(*weights) == []
    assert pauses[0] == []
    assert pauses[1][0] == "the first step"
    assert any("joined inside 'net'" in cause for cause in pauses[1])


@pytest.mark.full
def test_a_compiled_module_is_refused(certificates: Any) -> None:
    module = torch.compile(make_module())
    with pytest.raises(UnsupportedLoopError, match=r"without torch\.compile"):
        make_trainer(make_callback(certificates)).fit(module, *data())


def test_misspelt_options_are_told_before_anything_is_trained(certificates: Any) -> None:
    with pytest.raises(TypeError, match="polcy"):
        make_callback(certificates, polcy="heuristic")
    with pytest.raises(TypeError, match="taken from the trainer"):
        make_callback(certificates, precision="bf16-mixed")


def test_without_lightning_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.delitem(sys.modules, "esper_async.integrations.lightning")
    with pytest.raises(MissingPackageError, match=r"esper-async\[lightning\]"):
        import_module("esper_async.integrations.lightning")
