"""Hosts that checkpoint activations, draw elsewhere, were grown before, or name things as we do."""

import copy
import random
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from esper_async.kasmina.kernels.graft import grafts_of
from esper_async.kasmina.stage import Stage
from tests.growth_hosts import differing, make_host
from tests.kasmina.plots import Plot


class CheckpointedHost(nn.Module):
    """Its middle is run again in the backward pass, in place of being kept; (N, 6) to (N, 3)."""

    def __init__(self, *, kept: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kept = kept
        self.first = nn.Linear(6, 8)
        self.middle = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.head = nn.Linear(8, 3)

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (N, 6) to logits (N, 3)."""
        hidden = F.relu(self.first(rows))
        if self.kept:
            hidden = self._middle(hidden)
        else:
            hidden = checkpoint(self._middle, hidden, use_reentrant=False)
        logits: Tensor = self.head(hidden)
        return logits

    def _middle(self, hidden: Tensor) -> Tensor:
        blended: Tensor = F.relu(self.middle(self.norm(hidden)))
        return blended


@pytest.mark.parametrize("blueprints", [["BP014"], ["BP014", "BP021"]])
def test_a_seed_in_a_checkpointed_region_learns_as_in_any_other(blueprints: list[str]) -> None:
    """To run the region again meets the shadow's tensors, and never the host's own."""
    weights = []
    for kept in (False, True):
        alone = Plot(model=CheckpointedHost(kept=kept), sites={"here": "middle"})
        plot = Plot(model=CheckpointedHost(kept=kept), sites={"here": "middle"})
        seeds = plot.plant(*blueprints)
        for index in range(3):
            for each in (alone, plot):
                each.step(index)
        assert differing(alone.model.state_dict(), plot.model.state_dict()) == []
        weights.append([dict(seed.graft.state_dict()) for seed in seeds])
    assert differing(*weights) == []


def test_a_seed_in_a_checkpointed_region_goes_all_its_way() -> None:
    plot = Plot(model=CheckpointedHost(), sites={"here": "middle"}, g4_margin=-1e9)
    plot.plant("BP014")
    plot.until("FOSSILIZED")


class DrawingHost(CheckpointedHost):
    """It scales what it gives by numbers of Python's and NumPy's global generators."""

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (N, 6) to logits (N, 3)."""
        return super().forward(rows) * (1.0 + random.random() + float(np.random.rand()))


@pytest.mark.parametrize("blueprints", [["BP014"], ["BP014", "BP021"]])
def test_a_host_may_draw_from_other_generators_and_a_shadow_leaves_no_trace(
    blueprints: list[str],
) -> None:
    weights = []
    for planted in ([], blueprints):
        random.seed(1)
        np.random.seed(1)
        plot = Plot(model=DrawingHost(kept=True), sites={"here": "middle"})
        if planted:
            plot.plant(*planted)
        for index in range(4):
            plot.step(index)
        weights.append(plot.model.state_dict())
    assert differing(*weights) == []


def kept_seed(model: nn.Module, optimizer: Any = None) -> Plot:
    plot = Plot(model=model, optimizer=optimizer, g4_margin=-1e9)
    plot.plant("BP014")
    plot.until("FOSSILIZED")
    return plot


def test_a_grown_host_grows_on_at_the_same_site() -> None:
    model = make_host("mlp")
    kept_seed(model)
    second = kept_seed(model)
    assert list(grafts_of(model)) == ["body.4.esper_s1", "body.4.esper_s1_2"]
    host = kept_seed(make_host("mlp")).model  # grown once, as the second found it
    again = Plot(model=host)
    again.executor.load_state_dict(copy.deepcopy(second.executor.state_dict()))
    assert differing(model.state_dict(), again.model.state_dict()) == []


def test_an_attribute_of_the_hosts_is_left_alone() -> None:
    model = make_host("mlp")
    site = model.get_submodule("body.4")
    site.esper_s1 = "mine"  # type: ignore[assignment]
    plot = kept_seed(model)
    assert site.esper_s1 == "mine"
    (other,) = plot.plant("BP014")
    plot.executor.cull(other.id, "a test")
    plot.boundary()
    assert other.stage is Stage.DORMANT
