"""Growth under the Trainer of transformers."""

import shutil
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from esper_async import load_grown, save_grown
from esper_async.integrations.errors import MissingPackageError, UnsupportedLoopError
from esper_async.integrations.huggingface import STATE_FILE
from esper_async.kasmina.kernels.graft import grafts_of
from esper_async.kasmina.stage import Stage
from esper_async.kasmina.user_code import UserCodeError
from tests.growth_hosts import differing
from tests.integrations.huggingface_trainings import (
    FOREVER,
    images,
    make_callback,
    make_model,
    make_trainer,
    train,
)
from tests.tolaria.growth_tasks import QUICK


def test_a_model_grows_on_its_own_loss(tmp_path: Path, certificates: Any) -> None:
    callback = make_callback(certificates)
    model = train(tmp_path, callback, num_train_epochs=12)
    moves = [move.target for report in callback.reports for move in report.transitions]
    assert {Stage.TRAINING, Stage.BLENDING, Stage.FOSSILIZED} <= set(moves)
    assert len(callback.reports) == 12
    assert grafts_of(model)
    assert callback.grower is not None
    assert callback.grower.boundaries == 12
    assert any("twin_loss" in metrics for metrics in callback.grower.history)
    assert not model._forward_pre_hooks


def test_logits_and_labels_are_judged_sample_by_sample(tmp_path: Path, certificates: Any) -> None:
    callback = make_callback(
        certificates,
        loss=F.cross_entropy,
        forward=lambda model, batch: (model(**batch).logits, batch["labels"]),
    )
    train(tmp_path, callback, num_train_epochs=12)
    assert callback.grower is not None
    assert callback.grower.executor is not None
    judged = [seed.clean_contribution for seed in callback.grower.executor.seeds.values()]
    assert {q.paired_by for q in judged if q is not None} == {"sample"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"gradient_accumulation_steps": 4},
        {"bf16": True},
    ],
    ids=["plain", "accumulation", "bf16"],
)
def test_the_host_is_bitwise_as_without_growth_while_seeds_train(
    options: Any, tmp_path: Path, certificates: Any
) -> None:
    callback = make_callback(certificates, growth=FOREVER, boundaries=None)
    grown, plain = train(tmp_path, callback, **options), train(tmp_path, **options)
    assert callback.grower is not None
    assert callback.grower.executor is not None
    assert callback.grower.executor.compute.shadow_passes > 0
    assert differing(dict(grown.state_dict()), dict(plain.state_dict())) == []


def test_a_step_of_several_batches_is_one_step_of_growth(tmp_path: Path, certificates: Any) -> None:
    callback = make_callback(certificates)
    steps: list[Any] = []
    callback._growth.after_step = steps.append  # type: ignore[method-assign]
    train(tmp_path, callback, gradient_accumulation_steps=4, num_train_epochs=2)
    assert [len(batches) for batches in steps] == [4, 2, 4, 2]
    assert {tuple(batch) for batches in steps for batch in batches} == {("pixel_values", "labels")}


@pytest.mark.parametrize(
    "options",
    [{}, {"max_grad_norm": 0.05, "gradient_accumulation_steps": 3}, {"bf16": True}],
    ids=["plain", "clipped-and-accumulated", "bf16"],
)
def test_a_twin_goes_on_as_the_run_would_have(
    options: Any, tmp_path: Path, certificates: Any
) -> None:
    """It ends where a run ends that never grew."""
    growth = {**QUICK, "dwell_steps": 4, "window_boundaries": 20, "max_windows": 20}
    callback = make_callback(certificates, growth=growth, boundaries=None)
    twin: dict[str, Tensor] = {}
    finish = callback._growth.finish

    def look_first(loader: Any) -> None:
        assert callback.grower is not None
        assert callback.grower.executor is not None
        assert callback.grower.executor.trial is not None
        twin.update(callback.grower.executor.trial.twin.model.state_dict())
        finish(loader)

    callback._growth.finish = look_first  # type: ignore[method-assign]
    settings = {"num_train_epochs": 10, **options}
    train(tmp_path, callback, model=make_model(dropout=0.0), **settings)
    plain = train(tmp_path, model=make_model(dropout=0.0), **settings)
    assert twin
    torch.testing.assert_close(twin, dict(plain.state_dict()), rtol=1e-4, atol=1e-5)


def test_every_evaluation_is_a_boundary_on_the_first_of_several_sets(
    tmp_path: Path, certificates: Any
) -> None:
    sets = {"a": images(64, seed=1), "b": images(32, seed=2)}
    callback = make_callback(certificates, policy="static")
    options = {"eval_strategy": "steps", "eval_steps": 4, "eval_on_start": True}
    trainer = make_trainer(tmp_path, callback, evaluate_on=sets, num_train_epochs=2, **options)
    trainer.train()
    of_a = [entry["eval_a_loss"] for entry in trainer.state.log_history if "eval_a_loss" in entry]
    told = [report.metrics["validation_loss"] for report in callback.reports]
    assert told == pytest.approx(of_a[1:])
    assert callback.grower is not None
    assert callback.grower.boundaries == len(told) == 3


def test_evaluating_outside_of_training_is_no_boundary(tmp_path: Path, certificates: Any) -> None:
    callback = make_callback(certificates)
    trainer = make_trainer(tmp_path, callback, num_train_epochs=1)
    trainer.evaluate()
    trainer.train()
    trainer.evaluate()
    assert len(callback.reports) == 1


@pytest.mark.parametrize("epochs", [2, 5, 7, 9])
def test_training_resumes_bitwise_from_a_checkpoint(
    epochs: int, tmp_path: Path, certificates: Any
) -> None:
    """Before growth, and with seeds in TRAINING, on trial, and kept."""
    options = {"num_train_epochs": 12, "save_strategy": "epoch"}
    whole = make_callback(certificates)
    model = train(tmp_path, whole, **options)
    resumed = make_callback(certificates)
    trainer = make_trainer(tmp_path, resumed, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / f"checkpoint-{6 * epochs}"))
    assert len(resumed.reports) == 12 - epochs
    assert differing(dict(model.state_dict()), dict(trainer.model.state_dict())) == []
    assert whole.grower is not None
    assert resumed.grower is not None
    assert differing(whole.grower.state_dict(), resumed.grower.state_dict()) == []


def test_training_resumes_from_the_middle_of_an_epoch(tmp_path: Path, certificates: Any) -> None:
    options = {"num_train_epochs": 8, "save_strategy": "steps", "save_steps": 9}
    whole = make_callback(certificates)
    model = train(tmp_path, whole, **options)
    resumed = make_callback(certificates)
    trainer = make_trainer(tmp_path, resumed, **options)
    trainer.train(resume_from_checkpoint=str(tmp_path / "checkpoint-27"))
    assert differing(dict(model.state_dict()), dict(trainer.model.state_dict())) == []


def test_a_checkpoint_without_growth_is_grown_when_that_is_asked_for(
    tmp_path: Path, certificates: Any
) -> None:
    train(tmp_path, num_train_epochs=1, save_strategy="epoch")
    again = {"num_train_epochs": 2, "save_strategy": "epoch"}
    checkpoint = str(tmp_path / "checkpoint-6")
    with pytest.raises(UnsupportedLoopError, match="resume_from=None"):
        make_trainer(tmp_path, make_callback(certificates), **again).train(checkpoint)
    callback = make_callback(certificates, resume_from=None)
    make_trainer(tmp_path, callback, **again).train(checkpoint)
    assert len(callback.reports) == 1


def test_growth_of_another_checkpoint_is_not_taken_up(tmp_path: Path, certificates: Any) -> None:
    options = {"num_train_epochs": 2, "save_strategy": "epoch"}
    train(tmp_path / "a", make_callback(certificates), **options)
    elsewhere = shutil.copytree(tmp_path / "a" / "checkpoint-6", tmp_path / "b" / "checkpoint-6")
    (tmp_path / "b" / "checkpoint-6" / STATE_FILE).unlink()
    wrong = make_callback(certificates, resume_from=tmp_path / "a" / "checkpoint-12")
    with pytest.raises(UnsupportedLoopError, match="the optimizer is in another state"):
        make_trainer(tmp_path / "b", wrong, **options).train(str(elsewhere))
    right = make_callback(certificates, resume_from=tmp_path / "a" / "checkpoint-6")
    make_trainer(tmp_path / "b", right, **options).train(str(elsewhere))
    assert [report.boundary for report in right.reports] == [2]


def test_a_grown_model_is_put_into_a_fresh_copy(tmp_path: Path, certificates: Any) -> None:
    callback = make_callback(certificates)
    model = train(tmp_path, callback, num_train_epochs=12)
    assert callback.grower is not None
    save_grown(callback.grower, tmp_path / "grown.pt")
    fresh = load_grown(make_model(), tmp_path / "grown.pt")
    assert differing(dict(model.state_dict()), dict(fresh.state_dict())) == []


def test_a_model_that_has_grown_is_not_grown_anew(tmp_path: Path, certificates: Any) -> None:
    trainer = make_trainer(tmp_path, make_callback(certificates), num_train_epochs=12)
    trainer.train()
    with pytest.raises(UnsupportedLoopError, match="seeds of an earlier run"):
        trainer.train()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"eval_strategy": "no"}, "eval_strategy='epoch' or 'steps'"),
        ({"load_best_model_at_end": True, "save_strategy": "epoch"}, "load_best_model_at_end"),
        ({"activation_checkpointing": True}, "activation_checkpointing"),
        ({"auto_find_batch_size": True}, "per_device_train_batch_size"),
        ({"label_smoothing_factor": 0.1}, "label_smoothing_factor"),
        ({"torch_compile": True}, "torch_compile"),
    ],
)
def test_what_growth_cannot_follow_is_refused_with_what_to_set(
    options: Any, told: str, tmp_path: Path, certificates: Any
) -> None:
    with pytest.raises(UnsupportedLoopError, match=told):
        make_trainer(tmp_path, make_callback(certificates), **options).train()


def test_weights_in_half_precision_are_refused(tmp_path: Path, certificates: Any) -> None:
    model = make_model().bfloat16()
    with pytest.raises(UnsupportedLoopError, match="is bfloat16; growth needs weights in float32"):
        make_trainer(tmp_path, make_callback(certificates), model=model).train()


def test_a_loss_that_the_trainer_computes_is_refused_with_what_to_do(
    tmp_path: Path, certificates: Any
) -> None:
    trainer = make_trainer(tmp_path, make_callback(certificates))
    trainer.compute_loss_func = lambda outputs, labels, num_items_in_batch: F.cross_entropy(
        outputs.logits, labels
    )
    with pytest.raises(UserCodeError, match="compute_loss_func"):
        trainer.train()


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "esper_async.integrations.huggingface")
    with pytest.raises(MissingPackageError, match=r"esper-async\[huggingface\]"):
        import_module("esper_async.integrations.huggingface")
