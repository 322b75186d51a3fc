"""Hosts of blocks, compiled in several ways, with an executor to grow them."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from esper_async.kasmina.compiling.choice import CompileMode, Compiling
from esper_async.kasmina.compiling.host import HostCompiler, Pause
from esper_async.kasmina.compiling.region import Compiler
from tests.growth_hosts import CLASSES, make_batches
from tests.kasmina.plots import Plot

BORDER, ROW_END, INSIDE = {"here": "blocks.0"}, {"here": "stem.2"}, {"here": "blocks.0.up"}


class Block(nn.Module):
    """A residual block with batch norm and dropout; (N, 8) to (N, 8)."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(8, 8)
        self.norm = nn.BatchNorm1d(8)
        self.drop = nn.Dropout(0.2)

    def forward(self, hidden: Tensor) -> Tensor:
        """Add a change to the activation (N, 8)."""
        change: Tensor = self.drop(torch.relu(self.norm(self.up(hidden))))
        return hidden + change


class BlockHost(nn.Module):
    """Two blocks between a row of layers and a head; (N, 6) to (N, 3)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, CLASSES)

    def forward(self, rows: Tensor) -> Tensor:
        """Map rows (N, 6) to logits (N, 3)."""
        hidden: Tensor = self.stem(rows)
        for block in self.blocks:
            hidden = block(hidden)
        logits: Tensor = self.head(hidden)
        return logits


def block_host(seed: int = 0) -> BlockHost:
    """Return a host of blocks in training mode, the same bits for the same seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return BlockHost()


class CompiledPlot(Plot):
    """A plot whose host is compiled, which counts what its steps wait for."""

    def __init__(
        self,
        mode: CompileMode = "regions",
        *,
        regions: Any = ("stem", "blocks.*"),
        backend: str = "eager",
        model: nn.Module | None = None,
        sites: dict[str, str] | None = None,
        taken_over: Mapping[str, Compiler] | None = None,
        **settings: Any,
    ) -> None:
        super().__init__("mlp", model=model or block_host(), sites=sites or BORDER, **settings)
        named = regions if mode == "regions" else "auto"
        compiling = Compiling(mode=mode, regions=named, backend=backend, dynamic=False)
        if taken_over is not None:
            compiling = Compiling(taken_over=taken_over)
        self.compiler = HostCompiler(self.branch, compiling)
        self.compiler.install([site.path for site in self.executor.sites.values()])
        self.pauses: list[Pause] = []

    def step(self, index: int) -> Tensor:
        """Train the host on a batch, and note what that waited for."""
        loss = super().step(index)
        self.compiler.after_step()
        self.pauses += self.compiler.take()
        return loss

    @property
    def causes(self) -> list[str]:
        """Why steps waited, in their order."""
        return [pause.cause for pause in self.pauses]


@pytest.fixture
def compiler() -> Iterator[None]:
    """Begin with nothing compiled, and leave nothing; one thread, which shares its core better."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.compiler.reset()
    yield
    torch.compiler.reset()
    torch.set_num_threads(threads)


def blend(plot: Plot) -> None:
    """Let a seed be blended and train for a boundary more, from one random state."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        plot.plant("BP021")
        plot.until("BLENDING")
        plot.epoch()


def inputs() -> Tensor:
    """Return a batch of rows (16, 6)."""
    return make_batches("mlp", count=1)[0][0]
