"""What the trunk's nodes are read for: pointers at seeds, sites and blueprints, value and risk.

Nothing here knows how many of each there are: every head scores the nodes that it is given.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from esper_async.kasmina.kernels.graft import BLEND_MODES
from esper_async.kasmina.ramp import RAMP_SCHEDULES
from esper_async.tamiyo.legality import OPERATIONS
from esper_async.tamiyo.network.transformer import Affine, linear

MOST_CANDIDATES = 8
TURNS = 4
"""A site that has had so many more candidates than another counts as one that has had one less."""
RAMPS = (None, *RAMP_SCHEDULES)
"""None is the run's own."""
RISK_LEVELS = 5
_SIZE_SLOPE = 2.0
"""What a placement's score rises by with the logarithm of its size: the heuristic's exponent."""
_FIRM = 6.0
"""A bias that makes a choice the usual one; its odds to one other are e to this power."""
_TURN_SCALE = 40.0
"""Sites of very different sizes must be able to take turns, too."""


@dataclass(frozen=True, slots=True)
class PolicyOutput:
    """Scores of a batch of G graphs, float32; what is illegal is masked by whoever reads them.

    Attributes:
        operation: (G, O).
        seed: (G, O, M), of each operation on each seed.
        pair: (G, S, B), of a blueprint at a site.
        turn: (G, TURNS), added to a site that has had so many candidates more than the least.
        stop: (G, MOST_CANDIDATES), to stop after so many candidates less one.
        blend: (G, S, B, 4), over `BLEND_MODES`.
        ramp: (G, S, B, 4), over `RAMPS`.
        tune: (G, M, 3), over `RAMP_SCHEDULES`.
        value: (G,), expected return.
        risk: (G, 5), over the levels from GREEN on.
    """

    operation: Tensor
    seed: Tensor
    pair: Tensor
    turn: Tensor
    stop: Tensor
    blend: Tensor
    ramp: Tensor
    tune: Tensor
    value: Tensor
    risk: Tensor

    def sharpened(self, factor: float) -> "PolicyOutput":
        """Return the same with the scores of what is chosen times a factor: less is left to chance.

        That is a temperature of 1 / factor.
        """
        told = {each.name: getattr(self, each.name) for each in fields(self)}
        return PolicyOutput(
            **{name: each if name in ("value", "risk") else factor * each
               for name, each in told.items()}
        )  # fmt: skip

    def float(self) -> "PolicyOutput":
        """Return the same in float32."""
        if self.operation.dtype is torch.float32:
            return self
        return PolicyOutput(
            **{each.name: getattr(self, each.name).float() for each in fields(self)}
        )


class HeadWeights(NamedTuple):
    """The weights of `PolicyHeads`."""

    run_inner: Affine
    run: Affine
    seed: Affine
    site: Affine
    blueprint: Affine
    pair: Tensor


class PolicyHeads(nn.Module):
    """Score operations, seeds, placements and their settings, from the nodes of a graph.

    Heads that read the same node share one matrix: its columns belong to them in turn.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.scale = hidden**-0.5
        self._of_run = (len(OPERATIONS), TURNS, MOST_CANDIDATES, 1, RISK_LEVELS)
        self._of_seed = (len(OPERATIONS), len(RAMP_SCHEDULES))
        self._of_site = (hidden, len(BLEND_MODES), len(RAMPS))
        self._of_blueprint = (hidden, 1, len(BLEND_MODES), len(RAMPS))
        self.run_inner = nn.Linear(hidden, 2 * hidden)
        self.run = nn.Linear(2 * hidden, sum(self._of_run))
        self.seed = nn.Linear(hidden, sum(self._of_seed))
        self.site = nn.Linear(hidden, sum(self._of_site))
        self.blueprint = nn.Linear(hidden, sum(self._of_blueprint))
        self.pair = nn.Parameter(torch.tensor([_SIZE_SLOPE, 0.0]))
        self._begin_as_the_heuristic()

    def _begin_as_the_heuristic(self) -> None:
        """Set the biases of what the heuristic does always, whatever the state.

        It plants as many candidates as it may, sites taking turns, with the plain blend that fits
        and the run's own ramp. When it acts is for training to find out.
        """
        with torch.no_grad():
            biases: Any = self.run.bias, self.site.bias
            _, turn, stop, _, _ = biases[0].split(self._of_run)
            turn.copy_(-torch.arange(TURNS, dtype=torch.float32))
            stop.fill_(-_FIRM)
            _, blend, ramp = biases[1].split(self._of_site)
            blend[[BLEND_MODES.index("residual"), BLEND_MODES.index("convex")]] += _FIRM
            ramp[RAMPS.index(None)] += _FIRM

    def weights(self) -> HeadWeights:
        """Return the weights as they are now; they are shared, not copied."""
        return HeadWeights(
            run_inner=Affine.of(self.run_inner),
            run=Affine.of(self.run),
            seed=Affine.of(self.seed),
            site=Affine.of(self.site),
            blueprint=Affine.of(self.blueprint),
            pair=self.pair,
        )

    def forward(
        self,
        run: Tensor,
        layers: Tensor,
        seeds: Tensor,
        blueprints: Tensor,
        pairs: Tensor,
        weights: HeadWeights,
    ) -> PolicyOutput:
        """Return scores.

        Nodes: run (G, D), layers (G, S, D), seeds (G, M, D), blueprints (G, B, D); `pairs`
        (G, S, B, P) are the features of blueprints at sites, `weights` those of `weights`.
        """
        inner = torch.relu(linear(run, weights.run_inner))
        operation, turn, stop, value, risk = _parts(linear(inner, weights.run), self._of_run)
        seed, tune = _parts(linear(seeds, weights.seed), self._of_seed)
        query, blend_site, ramp_site = _parts(linear(layers, weights.site), self._of_site)
        of_blueprint = _parts(linear(blueprints, weights.blueprint), self._of_blueprint)
        key, score, blend_blueprint, ramp_blueprint = of_blueprint
        pointed = self.scale * (query @ key.transpose(1, 2))  # (G, S, B)
        return PolicyOutput(
            operation=operation,
            seed=seed.transpose(1, 2),  # (G, M, O) -> (G, O, M)
            pair=pointed + pairs @ weights.pair + score.transpose(1, 2),
            turn=_TURN_SCALE * turn,
            stop=stop,
            blend=_everywhere(blend_site, blend_blueprint),
            ramp=_everywhere(ramp_site, ramp_blueprint),
            tune=tune,
            value=value.squeeze(-1),
            risk=risk,
        ).float()


def _parts(columns: Tensor, widths: Sequence[int]) -> Sequence[Tensor]:
    return torch.split_with_sizes(columns, widths, dim=-1)


def _everywhere(sites: Tensor, blueprints: Tensor) -> Tensor:
    """Add scores of sites (G, S, K) and of blueprints (G, B, K) to those of pairs (G, S, B, K)."""
    return torch.add(sites.unsqueeze(2), blueprints.unsqueeze(1))
