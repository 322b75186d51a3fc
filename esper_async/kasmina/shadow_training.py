"""Training in shadow: seeds learn from a step's batch, each alone or those of a site together.

Whether they learn together is settled by the structure of host and kernels, never by a clock: a
resumed run comes to the same answer.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any

from torch import nn

from esper_async.kasmina.batched_shadow import batched_shadow_step, why_one_by_one
from esper_async.kasmina.branch import Branch
from esper_async.kasmina.call import Call
from esper_async.kasmina.compute import ComputeAccount
from esper_async.kasmina.evaluation import Loss
from esper_async.kasmina.isolation import is_due, watched
from esper_async.kasmina.kernels.graft import Graft
from esper_async.kasmina.options import GrowthOptions
from esper_async.kasmina.seed import Seed
from esper_async.kasmina.shadow import shadow_step


class ShadowTraining:
    """Trains the seeds in TRAINING, and bills what it costs.

    Args:
        branch: the run's network and optimizers.
        call: how the network is called on a batch.
        loss: the run's loss, a mean over the batch.
        options: how passes are done, and how often they are looked at.
        account: where they are billed.

    Attributes:
        one_by_one: why the seeds of a site do not learn in one pass, by the site's name.
    """

    def __init__(
        self,
        branch: Branch,
        call: Call,
        loss: Loss,
        *,
        options: GrowthOptions,
        account: ComputeAccount,
    ) -> None:
        self.one_by_one: dict[str, str] = {}
        self._branch = branch
        self._call = call
        self._loss = loss
        self._options = options
        self._account = account
        self._answers: dict[str, tuple[object, str]] = {}

    def learn(self, seeds: Sequence[Seed], batch: Any) -> Iterator[tuple[Seed, list[str]]]:
        """Train each seed on a step's batch; yield those that touched the host, and what of it."""
        for group in self._groups(seeds):
            if len(group) > 1 and self._may_share(group, batch):
                self._learn_together(group, batch)
                continue
            for seed in group:
                found = self._learn_alone(seed, batch)
                if found:
                    yield seed, found

    def _groups(self, seeds: Sequence[Seed]) -> list[list[Seed]]:
        """Return the seeds that could learn together, in the order of the oldest of each group."""
        if self._options.shadow_mode == "sequential":
            return [[seed] for seed in seeds]
        groups: dict[str, list[Seed]] = {}
        for seed in seeds:
            alone = seed.optimizer is None or _has_buffers(seed.graft)
            groups.setdefault(seed.id if alone else f"at {seed.site.path}", []).append(seed)
        return list(groups.values())

    def _may_share(self, seeds: Sequence[Seed], batch: Any) -> bool:
        """Whether seeds of one site learn from this batch in one pass.

        Not where one of them is due to be looked at: what touched the host must have a name.
        """
        if any(is_due(seed, self._options.isolation_every) for seed in seeds):
            return False
        site, key = seeds[0].site.name, _structure(self._branch.model, seeds)
        answered, reason = self._answers.get(site, (None, ""))
        if answered != key:
            reason = self._why_one_by_one(seeds, batch)
            self._answers[site] = key, reason
            self.one_by_one.pop(site, None)
            if reason:
                self.one_by_one[site] = reason
        return not reason

    def _why_one_by_one(self, seeds: Sequence[Seed], batch: Any) -> str:
        if self._branch.precision.name != "32":
            return "losses are scaled for each kernel alone, or computed in half precision"
        if self._branch.ranks.size > 1:
            return "the run has several ranks"
        return why_one_by_one(self._call, seeds, batch, self._loss)

    def _learn_together(self, seeds: Sequence[Seed], batch: Any) -> None:
        work = partial(
            batched_shadow_step,
            self._call,
            seeds,
            batch,
            self._loss,
            clip_norm=self._options.clip_norm,
            precision=self._branch.precision,
        )
        self._account.shadow_pass([seed.id for seed in seeds], batch, work)
        for seed in seeds:
            seed.shadow_passes += 1

    def _learn_alone(self, seed: Seed, batch: Any) -> list[str]:
        work = partial(
            shadow_step,
            self._call,
            seed,
            batch,
            self._loss,
            clip_norm=self._options.clip_norm,
            precision=self._branch.precision,
            ranks=self._branch.ranks,
        )
        bill = partial(self._account.shadow_pass, [seed.id], batch, work)
        return watched(self._branch.model, seed, self._options.isolation_every, bill)


def _has_buffers(graft: Graft) -> bool:
    """Whether a kernel has buffers of its own: what it writes there, one pass alone can write."""
    return any(buffer is not graft.alpha for buffer in graft.buffers())


def _structure(model: nn.Module, seeds: Iterable[Seed]) -> object:
    """Return what an answer holds for: the seeds, the host's modules and their modes."""
    modules = [(id(module), module.training) for module in model.modules()]
    return [seed.id for seed in seeds], modules
