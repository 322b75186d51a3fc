"""A seed learns by an optimizer of the host's kind, or by AdamW where that cannot be."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim import SGD, Adam, AdamW, Optimizer

from esper_async.kasmina.seed_optimizer import needs_closure, sibling_optimizer
from tests.growth_hosts import make_host
from tests.kasmina.plots import Plot


class PlainSGD(SGD):
    """Takes fewer settings than what it is made of."""

    def __init__(self, params: Any, lr: float = 0.1, momentum: float = 0.9) -> None:
        super().__init__(params, lr=lr, momentum=momentum)


class MatricesOnly(Optimizer):
    """Refuses what is no matrix, as optimizers that orthogonalise do."""

    def __init__(self, params: Any, lr: float = 0.1) -> None:
        super().__init__(params, {"lr": lr})
        if any(p.ndim != 2 for group in self.param_groups for p in group["params"]):
            raise ValueError("only matrices")

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Do nothing: it is never stepped here."""


def weight() -> nn.Parameter:
    return nn.Parameter(torch.ones(2, 2))


@pytest.mark.parametrize(
    ("host", "kind"),
    [
        (lambda: Adam([weight()], lr=0.1), Adam),
        (lambda: PlainSGD([weight()]), PlainSGD),
        (lambda: MatricesOnly([weight()]), AdamW),
        (lambda: torch.optim.LBFGS([weight()], lr=0.1), AdamW),
    ],
    ids=["adam", "a subclass", "one that refuses vectors", "one that needs a closure"],
)
def test_a_seed_has_the_hosts_kind_of_optimizer_where_it_can(
    host: Callable[[], Optimizer], kind: type[Optimizer]
) -> None:
    made = sibling_optimizer(host(), [nn.Parameter(torch.ones(3))])
    assert type(made) is kind
    assert made.param_groups[0]["lr"] == 0.0


def test_only_a_step_without_a_default_needs_a_closure() -> None:
    assert needs_closure(torch.optim.LBFGS([weight()]))
    assert not needs_closure(Adam([weight()]))
    assert not needs_closure(PlainSGD([weight()]))


def test_a_host_that_steps_by_a_closure_grows() -> None:
    model = make_host("mlp")
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=2)
    plot = Plot("mlp", model=model, optimizer=optimizer, twin=False)
    plot.plant("BP021")
    for index in range(12):
        inputs, targets = batch = plot.batches[index % 8]

        def closure(inputs: Any = inputs, targets: Any = targets) -> Any:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(inputs), targets)
            loss.backward()
            return loss.detach()

        for seed in plot.executor.with_optimizer():
            assert seed.optimizer is not None
            seed.optimizer.param_groups[0]["lr"] = 1e-2
        optimizer.step(closure)
        plot.executor.after_step(batch)
        if index % 4 == 3:
            plot.boundary()
    assert ("s1", "TRAINING", "BLENDING") in plot.moves
