"""Plots of ground for the growth tests: an executor over a small host, and a step of it."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from esper_async.kasmina.branch import Branch
from esper_async.kasmina.call import default_forward
from esper_async.kasmina.evaluation import Evaluation, SampleLoss, evaluate
from esper_async.kasmina.executor import Executor
from esper_async.kasmina.modes import evaluation_mode
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Candidate, Seed
from esper_async.kasmina.sites import find_sites
from tests.growth_hosts import CASES, Batch, Kind, make_batches, make_host, plain_step

QUICK = {
    "dwell_steps": 4,
    "shadow_every": 1,
    "ramp_boundaries": 1,
    "window_boundaries": 1,
    "max_windows": 1,
    "g2_margin": -1e9,
    "embargo_boundaries": 1,
    "parameter_budget": 100.0,
}


class Plot:
    """A small host with its executor, trained by a plain loop."""

    def __init__(
        self,
        kind: Kind = "mlp",
        *,
        model: nn.Module | None = None,
        optimizer: Optimizer | None = None,
        twin: bool | str = True,
        seed: int = 0,
        sites: dict[str, str] | None = None,
        rate: float = 1e-2,
        twin_budget_bytes: int | None = None,
        batches: list[Batch] | None = None,
        **options: Any,
    ) -> None:
        if isinstance(twin, str):
            options["twin"] = twin
        self.kind: Kind = kind
        self.model = make_host(kind) if model is None else model
        self.optimizer = optimizer or torch.optim.AdamW(self.model.parameters(), lr=1e-2)
        self.batches = make_batches(kind) if batches is None else batches
        self.decision = make_batches(kind, count=4, seed=1)
        self.moves: list[tuple[str, str, str]] = []
        self.rate = rate
        self.named = {"here": CASES[kind].site} if sites is None else sites
        self.site = "here"
        self.branch = Branch(self.model, self.optimizer, clip_norm=1.0)
        self.executor = Executor(
            self.branch,
            forward=default_forward,
            loss=SampleLoss(F.cross_entropy),
            sites=find_sites(self.model, default_forward, self.batches[0], self.named),
            options=GrowthOptions(**{**QUICK, "drill": True, **options}),
            run_seed=seed,
            train_step=plain_step if twin else None,
            on_transition=lambda seed, source, target, gate: self.moves.append(
                (seed.id, source.name, target.name)
            ),
            twin_budget_bytes=twin_budget_bytes,
        )

    def plant(self, *blueprints: str, site: str | None = None) -> list[Seed]:
        """Germinate candidates at one site, with a learning rate."""
        where = self.site if site is None else site
        return self.executor.germinate([Candidate(where, name) for name in blueprints])

    def step(self, index: int) -> Tensor:
        """Train the host on a batch and let the executor follow."""
        batch = self.batches[index % len(self.batches)]
        for seed in self.executor.with_optimizer():
            if seed.optimizer is not None:
                for group in seed.optimizer.param_groups:
                    group["lr"] = self.rate
        loss = plain_step(self.model, self.optimizer, batch)
        self.executor.after_step(batch)
        return loss

    def measure(self) -> dict[str, Evaluation]:
        """Evaluate the host and everything else that is due."""
        call = self.executor._call
        variants = {"host": call, **self.executor.variants()}
        with evaluation_mode([self.model, *self.executor.modules()]):
            timed = self.executor.options.latency_budget is not None
            return evaluate(variants, self.decision, SampleLoss(F.cross_entropy), timed=timed)

    def boundary(self) -> dict[str, Evaluation]:
        """Pass a boundary: measure and advance."""
        self.executor.start_boundary()
        results = self.measure()
        self.executor.advance(results)
        return results

    def epoch(self, start: int = 0, steps: int = 4) -> None:
        """Train for some steps and pass a boundary."""
        for index in range(start, start + steps):
            self.step(index)
        self.boundary()

    def until(self, stage: str, limit: int = 12) -> None:
        """Go on until a seed has entered a stage."""
        for round_ in range(limit):
            if any(target == stage for _, _, target in self.moves):
                return
            self.epoch(4 * round_)
        raise AssertionError(f"no seed reached {stage}: {self.moves}")
