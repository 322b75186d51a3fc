"""Ordinary mistakes: each says what is wrong, where, and what would be right; nothing changes."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from esper_async import Grower, grow
from esper_async.tolaria.task import TaskError
from tests.growth_hosts import differing, make_host
from tests.tolaria.growth_tasks import listed


class Unrated(Optimizer):
    """Gradient descent whose groups call their rate something else."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        super().__init__(parameters, {"rate": 0.1})

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Go down by a tenth of each gradient."""


def vector(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target, reduction="none")


def no_value(output: Tensor, target: Tensor) -> Any:
    return float(F.cross_entropy(output, target))


def failing(output: Tensor, target: Tensor) -> Tensor:
    raise ZeroDivisionError("no positives")


def somebody_elses(_parameters: Any) -> Optimizer:
    return torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)


DICTS = [{"x": torch.zeros(2, 6), "y": torch.zeros(2, dtype=torch.int64)}]
MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "rates without a name": (
        {"optimizer": Unrated},
        r"Task\.optimizer returned Unrated, whose parameter group 0 has no 'lr' \(its settings: "
        r"rate\).*each group needs its learning rate under that name",
    ),
    "an optimizer of something else": (
        {"optimizer": somebody_elses},
        r"Task\.optimizer .* trains no parameter of Task\.model; it should take the parameters",
    ),
    "no optimizer": ({"optimizer": lambda _: None}, r"Task\.optimizer returned None; it should"),
    "no scheduler": ({"scheduler": lambda _: None}, r"Task\.scheduler returned None; it should"),
    "a loss a sample": ({"loss": vector}, r"Task\.loss .* returns a scalar tensor"),
    "a loss that is no tensor": ({"loss": no_value}, r"Task\.loss .* returns a scalar tensor"),
    "a metric that raises": (
        {"metrics": {"hits": failing}, "primary_metric": None},
        r"Task\.metrics\['hits'\] raised ZeroDivisionError: no positives on the first validation",
    ),
    "batches that are dicts": (
        {"train_loader": DICTS, "validation_loader": DICTS},
        r"should be \(input, target\), not a dict with the keys \['x', 'y'\]; give the task a",
    ),
    "nothing to validate on": ({"validation_loader": []}, r"Task\.validation_loader yielded no"),
    "a generator": (
        {"train_loader": (batch for batch in listed().train_loader)},
        r"Task\.train_loader yields nothing the second time .* give a list, a DataLoader",
    ),
    "a site that is not there": ({"sites": {"here": "nope"}}, "no submodule 'nope'"),
    "inputs of another type": (
        {"model": make_host("mlp").double()},
        r"Task\.model\.forward raised RuntimeError: .*dtype",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_told_and_changes_nothing(mistake: str) -> None:
    wrong, said = MISTAKES[mistake]
    task = listed(**wrong)
    before = copy.deepcopy(task.model.state_dict())
    random_state = torch.get_rng_state()
    with pytest.raises(Exception, match=said):
        grow(task, epochs=2, policy="heuristic", seed=7, state_dir=None, progress=False)
    assert differing(before, dict(task.model.state_dict())) == []
    assert torch.equal(random_state, torch.get_rng_state())
    assert task.model.training


def test_a_frozen_model_is_refused_where_it_is_given() -> None:
    with pytest.raises(TaskError, match="frozen: none of its parameters has requires_grad"):
        listed(model=make_host("mlp").requires_grad_(False))


def test_a_grower_says_which_rates_it_misses() -> None:
    model = make_host("mlp")
    with pytest.raises(
        ValueError, match="the optimizer is Unrated, whose parameter group 0 has no"
    ):
        Grower(model, Unrated(model.parameters()), loss=F.cross_entropy, state_dir=None)


def half_of(model: nn.Module) -> nn.Module:
    model.get_submodule("body.0").requires_grad_(False)
    return model


WORKING: dict[str, Callable[[nn.Module], nn.Module]] = {
    "frozen all over": lambda model: model.requires_grad_(False),
    "frozen in part": half_of,
    "in bfloat16": lambda model: model.bfloat16(),
}


@pytest.mark.parametrize("habit", WORKING)
def test_seeds_train_on_a_host(habit: str) -> None:
    """In a loop of the caller's, where a host may be frozen as adapters have it."""
    model = WORKING[habit](make_host("mlp"))
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-2)
    grower = Grower(
        model, optimizer, loss=F.cross_entropy, state_dir=None, blueprints=["BP014"],
        growth={"dwell_steps": 4, "shadow_every": 1},
    )  # fmt: skip
    dtype = next(model.parameters()).dtype
    data = [(rows.to(dtype), target) for rows, target in listed().train_loader]
    for _ in range(6):
        for batch in data:
            with grower.step(batch):
                optimizer.zero_grad()
                loss = F.cross_entropy(model(batch[0]), batch[1])
                if loss.requires_grad:
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
        grower.boundary(data)
    assert grower.executor is not None
    assert grower.executor.planted > 0
