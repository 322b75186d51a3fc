"""`grow`: the same arguments give the same weights, and the caller's process stays as it was."""

import copy
import pickle
import random
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from esper_async import grow
from esper_async.kasmina.call import BatchError
from esper_async.kasmina.evaluation import EmptyLoaderError
from esper_async.kasmina.kernels.graft import grafts_of
from esper_async.kasmina.sites import NoSiteError
from esper_async.tamiyo.command import Decision, Germinate, NoOp
from esper_async.tolaria import global_random
from esper_async.tolaria.grow import GrowResult
from esper_async.tolaria.task import Task, TaskError
from esper_async.tolaria.training import LossError
from tests.growth_hosts import differing
from tests.tolaria.growth_tasks import BLUEPRINTS, QUICK, listed, regression, shuffled


def grown(task: Task, **changes: Any) -> GrowResult:
    settings: dict[str, Any] = {
        "epochs": 14,
        "seed": 3,
        "state_dir": None,
        "progress": False,
        "threads": 1,
        "growth": QUICK,
        "blueprints": BLUEPRINTS,
    }
    return grow(task, **{**settings, **changes})


@pytest.fixture(scope="module")
def result() -> GrowResult:
    return grown(listed())


def test_a_network_truly_grows(result: GrowResult) -> None:
    kept = [seed for seed in result.seeds if seed["stage"] == "FOSSILIZED"]
    assert kept
    assert set(grafts_of(result.model))
    inputs = torch.randn(4, 6)
    result.model.eval()
    with torch.no_grad():
        on = result.model(inputs)
        for graft in grafts_of(result.model).values():
            graft.alpha.fill_(0.0)
        off = result.model(inputs)
        for graft in grafts_of(result.model).values():
            graft.alpha.fill_(1.0)
    result.model.train()
    assert not torch.equal(on, off)


def test_the_history_has_every_boundary_and_every_stage_change(result: GrowResult) -> None:
    assert [entry["boundary"] for entry in result.history] == list(range(1, 15))
    stages = [(t["from_stage"], t["to_stage"]) for t in result.transitions]
    for pair in [
        ("DORMANT", "GERMINATED"),
        ("TRAINING", "BLENDING"),
        ("PROBATIONARY", "FOSSILIZED"),
    ]:
        assert pair in stages
    last = next(t for t in result.transitions if t["to_stage"] == "FOSSILIZED")
    assert last["gate"]["name"] == "G4"
    assert last["gate"]["numbers"]["low"] is not None
    assert len(result.decisions) == 14
    assert result.field_reports
    assert set(result.test) == {"loss", "accuracy"}
    assert all(result.compute[name] > 0 for name in ("host_macs", "shadow_macs", "twin_macs"))


@pytest.mark.parametrize("make", [listed, shuffled])
def test_the_same_arguments_and_seed_give_the_same_weights(make: Any) -> None:
    one, other = grown(make()), grown(make())
    assert differing(dict(one.model.state_dict()), dict(other.model.state_dict())) == []
    assert one.history == other.history


def test_another_seed_gives_other_weights() -> None:
    one, other = grown(shuffled()), grown(shuffled(), seed=4)
    assert differing(dict(one.model.state_dict()), dict(other.model.state_dict())) != []


def test_what_was_drawn_before_makes_no_difference(result: GrowResult) -> None:
    task = listed()
    torch.manual_seed(99)
    torch.randn(7)
    again = grown(task)
    assert differing(dict(result.model.state_dict()), dict(again.model.state_dict())) == []


@pytest.mark.parametrize("training", [True, False])
def test_the_callers_threads_randomness_and_mode_are_left_as_they_were(training: bool) -> None:
    task = listed()
    task.model.train(training)
    task.model.head.eval()
    torch.set_num_threads(2)
    try:
        random.seed(1)
        np.random.seed(1)
        torch.manual_seed(1)
        before = global_random.capture()
        grown(task, threads=1)
        assert torch.get_num_threads() == 2
        assert differing(before, global_random.capture()) == []
    finally:
        torch.set_num_threads(1)
    assert task.model.training is training
    assert not task.model.head.training
    body = [part.training for name, part in task.model.named_modules() if "head" not in name]
    assert set(body) == {training}


def test_static_is_bitwise_a_loop_written_by_hand() -> None:
    task, other = listed("conv2d", clip_norm=0.5), listed("conv2d")
    result = grown(task, policy="static", epochs=6)
    torch.manual_seed(3)
    model = other.model
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=6)
    for _ in range(6):
        for inputs, targets in other.train_loader:
            loss = F.cross_entropy(model(inputs), targets)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
            optimizer.step()
        scheduler.step()

    assert differing(dict(model.state_dict()), dict(result.model.state_dict())) == []


def test_until_a_seed_blends_every_policy_trains_the_same_host() -> None:
    class PlantOnly:
        name = "plant-only"
        version = "1"

        def decide(self, view: Any) -> Decision:
            if view.boundary == 2:
                return Decision(Germinate((view.placements[0].candidate(),)), "once")
            return Decision(NoOp(), "not now")

        def state_dict(self) -> dict[str, Any]:
            return {}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            pass

    settings = {"growth": {**QUICK, "dwell_steps": 1000}}
    one = grown(shuffled(), policy="static")
    other = grown(shuffled(), policy=PlantOnly(), **settings)

    assert other.seeds
    assert differing(dict(one.model.state_dict()), dict(other.model.state_dict())) == []
    told = [[e["validation_loss"] for e in each.history] for each in (one, other)]
    assert told[0] == told[1]


def test_a_run_draws_itself_with_a_mark_for_every_seed_that_it_kept(result: GrowResult) -> None:
    (axes,) = result.plot().axes
    kept = [text.get_text() for text in axes.texts if text.get_text().endswith("fossilized")]
    assert len(kept) == sum(seed["stage"] == "FOSSILIZED" for seed in result.seeds) > 0
    assert len(axes.get_lines()[0].get_xdata()) == len(result.history)


def test_a_grown_model_can_be_copied(result: GrowResult) -> None:
    model, copied = result.model, copy.deepcopy(result.model)
    inputs = torch.randn(4, 6)
    model.eval()
    copied.eval()
    assert torch.equal(model(inputs), copied(inputs))
    with torch.no_grad():
        for graft in grafts_of(copied).values():
            graft.alpha.fill_(0.0)
    assert not torch.equal(model(inputs), copied(inputs))  # the copy's hooks are its own
    model.train()


def test_a_grown_model_can_be_exported_to_a_program_that_runs(result: GrowResult) -> None:
    model = copy.deepcopy(result.model).eval()
    inputs = torch.randn(4, 6)
    program = torch.export.export(model, (inputs,), strict=False)
    torch.testing.assert_close(program.module()(inputs), model(inputs))


class Plain(nn.Module):
    pass


def test_a_pickled_model_needs_only_torch_and_the_kernels(tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        host = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    model = grown(listed(model=host)).model.eval()
    assert grafts_of(model)
    inputs = torch.randn(4, 6)
    torch.save(model, tmp_path / "model.pt")
    torch.save((inputs, model(inputs).detach()), tmp_path / "pair.pt")
    (tmp_path / "model.pickle").write_bytes(pickle.dumps(model))
    program = textwrap.dedent(
        """
        import pickle, sys
        import torch
        import esper_async.kasmina.kernels
        before = set(sys.modules)
        inputs, expected = torch.load("pair.pt")
        for model in (
            torch.load("model.pt", weights_only=False),
            pickle.load(open("model.pickle", "rb")),
        ):
            assert torch.equal(model(inputs), expected)
        ours = {name for name in sys.modules if name.startswith("esper_async")}
        allowed = ("esper_async.kasmina.kernels", "esper_async.kasmina.interface")
        stray = [n for n in ours if n not in ("esper_async", "esper_async.kasmina")
                 and not n.startswith(allowed)]
        assert not stray, stray
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_regression_shows_no_accuracy_anywhere() -> None:
    result = grown(regression())
    assert result.history
    assert all(set(e) & {"validation_accuracy", "accuracy"} == set() for e in result.history)
    assert result.seeds
    assert result.test == {}


def test_margins_for_a_loss_that_is_no_cross_entropy_are_relative() -> None:
    growth = {**QUICK, "g2_margin": -0.02, "g4_margin": 0.005}
    result = grown(regression(), growth=growth)
    gates = [g for seed in result.seeds for g in seed["gates"] if g["name"] == "G2"]
    margins = [g["numbers"]["margin"] for g in gates if g["numbers"].get("margin") is not None]
    losses = [entry["validation_loss"] for entry in result.history]
    assert margins
    for gate in gates:
        if gate["numbers"].get("margin") is not None:
            expected = -0.02 * losses[gate["boundary"] - 1]
            assert gate["numbers"]["margin"] == pytest.approx(expected)


def test_a_loss_without_a_reduction_is_paired_by_batch() -> None:
    def loss(output: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(output, target)

    result = grown(listed(loss=loss))
    told = [s["clean_contribution"] for s in result.seeds if s["clean_contribution"] is not None]
    assert told
    assert all(quantity["paired_by"] == "batch" and quantity["n"] == 2 for quantity in told)


@pytest.mark.parametrize("policy", ["static", "heuristic"])
def test_a_loss_that_is_nan_at_once_fails_with_a_remedy(policy: str) -> None:
    def nothing(output: Tensor, target: Tensor) -> Tensor:
        return output.sum() * float("nan")

    with pytest.raises(LossError, match="nan at step 1; look at the data"):
        grown(listed(loss=nothing), policy=policy)


def test_a_model_without_a_site_is_an_error_only_if_it_is_to_grow() -> None:
    def task() -> Task:
        return regression(model=nn.Sequential(nn.Linear(6, 1)))

    with pytest.raises(NoSiteError, match="name sites"):
        grown(task())
    assert grown(task(), policy="static", epochs=2).history


def test_a_loader_that_yields_nothing_is_named() -> None:
    with pytest.raises(TaskError, match=r"Task\.train_loader yielded no batch"):
        grown(listed(train_loader=[]))
    with pytest.raises(EmptyLoaderError, match="validation loader"):
        grown(listed(validation_loader=[]))


def test_a_generator_is_good_for_one_epoch_and_refused_for_more_before_a_step_is_taken() -> None:
    def task() -> Task:
        return listed(train_loader=(batch for batch in listed().train_loader))

    assert len(grown(task(), epochs=1, policy="static").history) == 1
    refused = task()
    with pytest.raises(TaskError, match="a generator can be iterated only once"):
        grown(refused, epochs=2, policy="static")
    assert len(list(refused.train_loader)) == 4


def test_a_loader_of_the_users_that_begins_only_once_is_named_in_its_second_epoch() -> None:
    class Once:
        def __init__(self) -> None:
            self.batches = iter(listed().train_loader)

        def __iter__(self) -> Any:
            return self.batches

    with pytest.raises(TaskError, match=r"Task\.train_loader yielded no batch.*begins anew"):
        grown(listed(train_loader=Once()), epochs=2, policy="static")


def test_an_empty_test_loader_is_named_before_anything_is_trained() -> None:
    task = listed(test_loader=[])
    before = copy.deepcopy(task.model.state_dict())
    with pytest.raises(EmptyLoaderError, match=r"Task\.test_loader yielded no batch: the test"):
        grown(task)
    assert not differing(before, task.model.state_dict())


def test_what_fails_on_the_first_validation_or_test_batch_is_told_at_once_and_all_of_it() -> None:
    task = listed(metrics={"hits": lambda *_: 1 / 0}, primary_metric=None, test_loader=[3])
    with pytest.raises(TaskError) as caught:
        grown(task)
    told = str(caught.value).splitlines()
    assert len(told) == 2
    assert told[0].startswith("Task.metrics['hits'] raised ZeroDivisionError: division by zero on")
    assert "first validation batch; a metric takes (output, target)" in told[0]
    assert told[1].startswith("Task.test_loader: no tensor found in the batch")


def test_a_test_split_that_can_be_iterated_only_once_is_read_whole() -> None:
    whole = grown(listed(), epochs=2, policy="static")
    once = grown(
        listed(test_loader=(batch for batch in listed().test_loader or ())),
        epochs=2,
        policy="static",
    )
    assert once.test == whole.test


def test_looking_ahead_draws_nothing_that_the_run_draws() -> None:
    def task(**changes: Any) -> Task:
        rows, labels = torch.randn(32, 6), torch.zeros(32, dtype=torch.long)
        generator = torch.Generator().manual_seed(1)
        return shuffled(
            validation_loader=DataLoader(
                TensorDataset(rows, labels), batch_size=16, shuffle=True, generator=generator
            ),
            **changes,
        )

    torch.manual_seed(0)
    looked = grown(task(), epochs=3)
    torch.manual_seed(0)
    with mock.patch("esper_async.tolaria.engine.rehearse", lambda *_, **__: None):
        not_looked = grown(task(), epochs=3)
    assert looked.history == not_looked.history
    assert not differing(looked.model.state_dict(), not_looked.model.state_dict())


def test_a_batch_that_is_no_pair_says_how_to_give_a_forward() -> None:
    loader = [{"rows": torch.randn(4, 6), "label": torch.zeros(4, dtype=torch.long)}]
    with pytest.raises(BatchError, match=r"forward\(model, batch\)"):
        grown(listed(train_loader=loader, validation_loader=loader))

    def forward(model: nn.Module, batch: Any) -> tuple[Tensor, Tensor]:
        return model(batch["rows"]), batch["label"]

    loaders = {"train_loader": loader, "validation_loader": loader, "test_loader": loader}
    result = grown(listed(**loaders, forward=forward, metrics={}, primary_metric=None), epochs=2)
    assert len(result.history) == 2


def test_an_unknown_option_is_refused_with_those_known() -> None:
    with pytest.raises(TypeError, match="boundary_every"):
        grown(listed(), boundry_every=3)


def test_boundaries_may_come_every_few_steps() -> None:
    result = grown(listed(), epochs=3, boundary_every=5)
    assert [entry["step"] for entry in result.history] == [5, 10, 12], "all epochs are trained"
    even = grown(listed(), epochs=3, boundary_every=6)
    assert [entry["step"] for entry in even.history] == [6, 12]


def test_the_table_has_this_run_the_host_alone_and_the_final_net() -> None:
    result = grown(listed(), baselines=True)
    names = [row["name"] for row in result.comparison]
    assert names == ["this run", "the same host, not growing", "the final net, from scratch"]
    own, alone, final = result.comparison
    assert own["parameters"] == final["parameters"] > alone["parameters"]
    assert own["value"] == result.test["accuracy"]
    assert all(row["low"] <= row["value"] <= row["high"] and row["n"] == 32 for row in (own, alone))
    assert own["macs"] > alone["macs"]


def test_a_run_that_never_grows_is_its_own_baseline() -> None:
    own, alone = grown(listed(), baselines=True, policy="static", epochs=4).comparison
    assert own["value"] == alone["value"]
    assert own["parameters"] == alone["parameters"]
