"""A teacher: seeds in the shadow learn from its soft targets, and nobody else notices it."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from esper_async import Grower
from esper_async.kasmina.call import Call, default_forward
from esper_async.kasmina.distillation import Teacher, TeacherRefusedError, lessons
from esper_async.kasmina.ownership import OwnershipError
from esper_async.kasmina.shadow_training import ShadowTraining
from esper_async.kasmina.user_code import UserCodeError
from esper_async.tolaria.control import Steer
from tests.growth_hosts import differing, make_batches, make_host
from tests.kasmina.plots import Plot
from tests.kasmina.test_batched_shadow import mlp_host
from tests.tolaria.growth_tasks import shuffled
from tests.tolaria.test_engine import Script, run, weights

DECISIVE: dict[str, Any] = {"growth": {"teacher_weight": 0.9}}


def teacher_of(model: nn.Module | None = None, **settings: Any) -> Teacher:
    model = make_host("mlp", seed=9) if model is None else model
    how: dict[str, Any] = {"weight": 0.3, "temperature": 3.0, **settings}
    return Teacher(model.eval(), default_forward, **how)


def test_what_a_seed_learns_from_is_hintons_sum() -> None:
    teacher, host = teacher_of(), make_host("mlp").eval()
    inputs, targets = make_batches("mlp", count=1)[0]
    call, loss = lessons(teacher, Call(host, default_forward), F.cross_entropy)
    found = loss(*call((inputs, targets)))

    logits = host(inputs)
    hard = F.cross_entropy(logits, targets)
    theirs = torch.softmax(teacher.model(inputs) / 3.0, dim=1)
    mine = torch.softmax(logits / 3.0, dim=1)
    divergence = (theirs * (theirs / mine).log()).sum(dim=1).mean()
    torch.testing.assert_close(found, 0.7 * hard + 0.3 * 9.0 * divergence)
    (gradient,) = torch.autograd.grad(found, [host.get_submodule("head").weight])  # type: ignore[list-item]
    assert bool(gradient.any())


@pytest.mark.parametrize("class_dim", [1, -1])
def test_classes_may_lie_anywhere(class_dim: int) -> None:
    soft, mine = torch.randn(2, 4, 5, 3), torch.randn(2, 4, 5, 3)
    teacher = teacher_of(weight=1.0, temperature=1.0, class_dim=class_dim)
    found = teacher._mixed(torch.zeros(()), mine, F.log_softmax(soft, dim=class_dim))
    rows = [each.movedim(class_dim, -1).reshape(-1, each.shape[class_dim]) for each in (mine, soft)]
    target = torch.softmax(rows[1], dim=1)
    expected = F.kl_div(F.log_softmax(rows[0], dim=1), target, reduction="batchmean")
    torch.testing.assert_close(found, expected)


def _teach(plot: Plot, teacher: Teacher) -> None:
    executor = plot.executor
    executor.shadows = ShadowTraining(
        executor.branch,
        *lessons(teacher, executor._call, F.cross_entropy),
        options=executor.options,
        account=executor.compute,
    )


def test_candidates_at_a_site_learn_the_same_from_a_teacher_together_or_alone() -> None:
    sites, host = {"here": "0"}, mlp_host()
    together: dict[str, Any] = {"shadow_mode": "batched", "isolation_every": 100}
    plots = [
        Plot("mlp", model=host, sites=sites),
        Plot("mlp", model=copy.deepcopy(host), sites=sites, **together),
    ]
    for plot in plots:
        _teach(plot, teacher_of())
        plot.plant("BP021", "BP002")
        for index in range(6):
            plot.step(index)
    assert plots[1].executor.shadows.one_by_one == {}
    for name in ("s1", "s2"):
        alone, other = (plot.executor.seeds[name].graft.state_dict() for plot in plots)
        for key in alone:
            torch.testing.assert_close(other[key], alone[key], rtol=1e-3, atol=1e-4)


def test_a_seed_learns_otherwise_and_the_host_does_not_notice() -> None:
    plots = [Plot("mlp"), Plot("mlp")]
    teacher = teacher_of()
    before = copy.deepcopy(teacher.model.state_dict())
    _teach(plots[1], teacher)
    for plot in plots:
        torch.manual_seed(1)
        plot.plant("BP021")
        for index in range(3):
            plot.step(index)
    one, two = ({"host": p.model.state_dict(), "adam": p.optimizer.state_dict()} for p in plots)
    assert differing(one, two) == []
    kernels = [plot.executor.seeds["s1"].graft.state_dict() for plot in plots]
    assert differing(*kernels) != []
    assert differing(before, teacher.model.state_dict()) == []


def grower(teacher: nn.Module, **settings: Any) -> Grower:
    model = settings.pop("model", None) or make_host("mlp")
    optimizer = torch.optim.Adam([*model.parameters(), *settings.pop("also", [])])
    return Grower(
        model, optimizer, loss=F.cross_entropy, state_dir=None, teacher=teacher, **settings
    )


def test_a_teacher_is_frozen_and_its_parameters_are_nobody_elses_to_train() -> None:
    teacher = make_host("mlp", seed=9)
    grown = grower(teacher)
    assert not teacher.training
    assert not any(parameter.requires_grad for parameter in teacher.parameters())
    grown.optimizer.add_param_group({"params": list(teacher.parameters())})
    with pytest.raises(OwnershipError, match="belongs to the teacher"):
        grown.optimizer.step()

    shared = make_host("mlp")
    with pytest.raises(OwnershipError, match="cannot be given to the teacher"):
        grower(shared, model=shared)
    assert all(parameter.requires_grad for parameter in shared.parameters())


def test_a_teacher_that_memory_does_not_allow_is_refused_with_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("esper_async.tolaria.grower.growth_budget_bytes", lambda _: 1_000_000)
    with pytest.raises(TeacherRefusedError, match=r"takes 4\.0 MB, and growth may take 1\.0 MB"):
        grower(nn.Linear(1000, 1000))


def test_a_teacher_that_answers_otherwise_or_raises_is_told_of() -> None:
    host, batch = make_host("mlp"), make_batches("mlp", count=1)[0]
    for wrong, told, error in (
        (nn.Linear(6, 5), r"\(16, 5\), the host with \(16, 3\)", TeacherRefusedError),
        (nn.Linear(2, 3), "teacher raised RuntimeError", UserCodeError),
    ):
        call, loss = lessons(teacher_of(wrong), Call(host, default_forward), F.cross_entropy)
        with pytest.raises(error, match=told):
            loss(*call(batch))


def test_a_run_with_a_teacher_goes_on_bitwise_and_with_no_other_teacher(tmp_path: Path) -> None:
    def taught(seed: int = 9) -> Any:
        return shuffled(teacher=make_host("mlp", seed=seed))

    whole, _ = run(taught(), **DECISIVE)
    untaught, _ = run(shuffled(), **DECISIVE)
    assert differing(weights(untaught), weights(whole)) != []
    run(taught(), tmp_path, Script({30: [Steer("drain")]}), **DECISIVE)
    with pytest.raises(TeacherRefusedError, match="go on with the same"):
        run(taught(seed=8), tmp_path, **DECISIVE)
    rest, _ = run(taught(), tmp_path, **DECISIVE)
    assert rest.history == whole.history
    assert differing(weights(whole), weights(rest)) == []
