"""Runs as they may stand at a boundary, drawn at random: hosts, seeds, budgets and losses.

They are not recorded from training, so that a policy meets more kinds of hosts than anybody has
trained; every one is a state that the heuristic could be asked about.
"""

import math
import random
from collections.abc import Sequence
from typing import Literal

from esper_async.karn.catalogue import Catalogue
from esper_async.karn.record import BlueprintRecord
from esper_async.kasmina.interface import InterfaceKind
from esper_async.kasmina.kernels.graft import BlendMode, fitting_blend
from esper_async.kasmina.quantity import Quantity
from esper_async.kasmina.stage import ON_TRIAL, Stage
from esper_async.tamiyo.view import Placement, SeedView, SiteView, View

Situation = Literal["free", "training", "trial", "full", "late", "early"]
_SITUATIONS: tuple[Situation, ...] = ("free", "training", "trial", "full", "late", "early")
_WEIGHTS = (6, 1, 1, 1, 1, 1)
_KINDS: tuple[InterfaceKind, ...] = ("spatial", "sequence", "feature")


_MEMORISES, _GENERALISES = (0.05, 0.4), (0.6, 1.1)
"""Training losses, of the validation loss; between the two nobody needs to know which it is."""


class StateDraw:
    """Draws views; the same seed draws the same ones."""

    def __init__(self, seed: int, catalogue: Catalogue | None = None) -> None:
        self._random = random.Random(f"states/{seed}")  # noqa: S311 - not for secrets
        records = (catalogue or Catalogue()).records
        self._records = [record for record in records if record.tier != "adversarial"]

    def view(self, *, sites: tuple[int, int] = (1, 16), situation: Situation | None = None) -> View:
        """Draw a view with a number of sites within `sites`."""
        draw = self._random
        what = situation or draw.choices(_SITUATIONS, _WEIGHTS)[0]
        places = self._sites(draw.randint(*sites))
        host = sum(site.layer_parameters for site in places) + draw.randint(50, 5000)
        latest = draw.choice((8, 40, 120))
        boundary = draw.randint(1, 3) if what == "early" else draw.randint(4, latest)
        trial = draw.randint(4, 24)
        seeds = self._seeds(what, places, boundary)
        kept = sum(seed.stage is Stage.FOSSILIZED for seed in seeds)
        remaining = int(host * draw.uniform(0.2, 8.0))
        resting = frozenset(site.name for site in places if draw.random() < 0.1)
        offered = [] if what == "full" else self._placements(places, remaining, resting)
        busy = sum(seed.stage in (Stage.GERMINATED, Stage.TRAINING) for seed in seeds)
        room = draw.choice((8, 8, 8, 8, draw.randint(1, 8)))
        losses = self._losses(boundary)
        fits = _MEMORISES if draw.random() < 0.15 else _GENERALISES
        return View(
            boundary=boundary,
            last_boundary=self._end(what, boundary, trial),
            validation_losses=losses,
            training_losses=[loss * draw.uniform(*fits) for loss in losses],
            seeds=seeds,
            placements=offered,
            free_candidates=max(min(8 - busy, room), 0),
            host_parameters=host,
            remaining_parameters=remaining,
            trial_boundaries=trial,
            sites=places,
            resting=resting,
            blueprints=sorted({record.id for record in self._fitting(places)}),
            gradient_rms={
                site.name: 10.0 ** draw.uniform(-5, 0) for site in places if draw.random() < 0.9
            },
            max_seeds=max(kept + 1, 4),
        )

    def _sites(self, count: int) -> tuple[SiteView, ...]:
        draw = self._random
        kind = draw.choice(_KINDS)
        found = []
        for depth in range(count):
            here = kind if draw.random() < 0.9 else "feature"
            channels = int(2.0 ** draw.uniform(2, 8))
            positions = 1 if here == "feature" else int(2.0 ** draw.uniform(2, 10))
            found.append(
                SiteView(
                    name=f"layer.{depth}",
                    depth=depth,
                    kind=here,
                    channels=channels,
                    positions=positions,
                    element_bytes=draw.choice((4, 4, 4, 2)),
                    channels_last=here == "spatial" and draw.random() < 0.1,
                    layer=f"layer.{depth}",
                    layer_parameters=int(channels**2 * draw.uniform(0.1, 9.0)),
                    layer_tensors=draw.randint(1, 8),
                    trainable=1.0 if draw.random() < 0.9 else draw.random(),
                )
            )
        return tuple(found)

    def _fitting(self, places: Sequence[SiteView]) -> list[BlueprintRecord]:
        kinds = {site.kind for site in places}
        return [record for record in self._records if kinds & set(record.kinds)]

    def _placements(
        self, places: Sequence[SiteView], remaining: int, resting: frozenset[str]
    ) -> list[Placement]:
        draw = self._random
        found = []
        experimental = draw.random() < 0.2
        for site in places:
            if site.name in resting:
                continue
            for record in self._fitting([site]):
                if record.tier == "experimental" and not experimental:
                    continue
                size = int(site.channels ** draw.uniform(0.0, 2.0) * (1 + record.stage))
                parameters = 0 if record.id == "BP001" else size
                if parameters <= remaining:
                    blend: BlendMode = fitting_blend(record.output or "change")
                    found.append(Placement(site.name, site.depth, record.id, blend, parameters))
        return found

    def _seeds(self, what: Situation, places: Sequence[SiteView], boundary: int) -> list[SeedView]:
        draw = self._random
        stages = [Stage.FOSSILIZED] * draw.choice((0, 0, 0, 1, 2, 3))
        if what == "training":
            waiting = draw.choice((Stage.TRAINING, Stage.TRAINING, Stage.GERMINATED))
            stages += [waiting] * draw.randint(1, 8)
        elif what == "trial":
            stages.append(draw.choice(ON_TRIAL))
        records = self._fitting(places)
        return [
            self._seed(f"s{number}", stage, draw.choice(places), draw.choice(records).id, boundary)
            for number, stage in enumerate(stages, start=1)
        ]

    def _seed(
        self, name: str, stage: Stage, site: SiteView, blueprint: str, boundary: int
    ) -> SeedView:
        draw = self._random
        age = draw.randint(0, boundary)
        blended = stage in ON_TRIAL or stage is Stage.FOSSILIZED
        return SeedView(
            name,
            site.name,
            blueprint,
            stage,
            int(site.channels ** draw.uniform(0.0, 2.0)),
            alpha=draw.random() if stage is Stage.BLENDING else float(blended),
            age_boundaries=age,
            stage_boundaries=draw.randint(0, age),
            gradient_norm=10.0 ** draw.uniform(-4, 2) if stage is Stage.TRAINING else None,
            learning_rate=10.0 ** draw.uniform(-5, -1),
            clean_contribution=self._quantity() if blended else None,
            dependence=self._quantity() if blended else None,
            benefit_vs_twin=self._quantity() if blended and draw.random() < 0.7 else None,
            windows=draw.randint(0, 2) if stage is Stage.PROBATIONARY else 0,
        )

    def _quantity(self) -> Quantity:
        mean, half = self._random.gauss(0.02, 0.1), self._random.uniform(0.001, 0.05)
        return Quantity(mean, mean - half, mean + half, 256, "sample")

    def _losses(self, boundary: int) -> list[float]:
        draw = self._random
        start, floor, pace = draw.uniform(0.5, 5.0), draw.uniform(0.05, 0.5), draw.uniform(2, 40)
        return [
            floor + start * math.exp(-at / pace) * draw.uniform(0.9, 1.1)
            for at in range(1, boundary + 1)
        ]

    def _end(self, what: Situation, boundary: int, trial: int) -> int | None:
        draw = self._random
        if what == "late":
            return boundary + draw.randint(0, trial - 1)
        return None if draw.random() < 0.2 else boundary + trial + draw.randint(0, 60)
