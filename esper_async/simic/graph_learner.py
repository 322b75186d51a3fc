"""Teaching the graph policy by its own runs: proximal policy optimisation, or IMPALA's V-trace.

PPO holds to the policy that acted by clipping, and takes what each run did as drawn from it;
V-trace weighs what a policy did that may be several versions older. Both learn from whole runs, in
evaluation mode: with dropout no action would be as likely as it was when it was drawn.
"""

import random
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from esper_async.simic import lora
from esper_async.simic.episodes import Episode
from esper_async.simic.gae import gae
from esper_async.simic.returns import Returns
from esper_async.simic.surrogates import Loss, impala_loss, ppo_loss
from esper_async.simic.vtrace import vtrace
from esper_async.tamiyo.graph.structure import Sizes
from esper_async.tamiyo.network import PolicyNetwork
from esper_async.tamiyo.network.recorded import RecordedDecision, stacked
from esper_async.tamiyo.network.rescoring import rescored


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """How the graph policy learns.

    Args:
        name: "ppo" or "impala".
        discount, decay: γ, and λ of the advantages (PPO alone).
        clip: ε (PPO alone).
        most_rho, most_c: ρ̄ and c̄ (IMPALA alone).
        passes: over all of the runs.
        batch: steps of an update, at least, unless fewer are left.
        rank: of the adapters; None trains the network itself.
        seed: of the order of the steps, and of the adapters.
    """

    name: Literal["ppo", "impala"]
    passes: int
    discount: float = 0.99
    decay: float = 0.95
    clip: float = 0.2
    most_rho: float = 1.0
    most_c: float = 1.0
    batch: int = 32
    learning_rate: float = 3e-4
    value_weight: float = 0.5
    entropy_weight: float = 0.01
    clip_norm: float = 1.0
    rank: int | None = None
    seed: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return asdict(self)


PPO = Method(name="ppo", passes=8)
IMPALA = Method(name="impala", passes=1)


@dataclass(frozen=True, slots=True, eq=False)
class Asked:
    """A network's answer about N decisions: log π, V and entropies, all (N,), with gradients."""

    log_probabilities: Tensor
    values: Tensor
    entropies: Tensor


class GraphLearner:
    """Teaches one network by episodes, pass by pass; deterministic in the method's seed.

    Args:
        network: what learns; it is in evaluation mode afterwards.
        episodes: whole runs. All that a pass needs is made from them and the network, so that a
            learner that was loaded between two passes goes on as if it had never stopped.
        method: how.
    """

    def __init__(self, network: PolicyNetwork, episodes: Sequence[Episode], method: Method) -> None:
        self.network = network.eval()
        self.method = method
        self._episodes = tuple(episodes)
        self.passed = 0
        self.updates = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(method.seed)
            trained = self._trained()
        self._optimizer = torch.optim.Adam(trained, lr=method.learning_rate)
        self._parameters = trained

    def _trained(self) -> list[torch.nn.Parameter]:
        if self.method.rank is not None:
            return lora.attach(self.network, rank=self.method.rank)
        self.network.requires_grad_(True)
        return list(self.network.parameters())

    def learn(self, *, after_pass: Callable[[Loss], None] | None = None) -> None:
        """Make the passes that are left; `after_pass` is told the last loss of each.

        Raises:
            FloatingPointError: a loss is not finite; the network is as it was before it.
        """
        while self.passed < self.method.passes:
            last = deque(self.updates_of_a_pass(), maxlen=1)
            if after_pass is not None and last:
                after_pass(last[0])

    def updates_of_a_pass(self) -> Iterator[Loss]:
        """Make the updates of the pass that comes next, and yield the loss of each behind it.

        Raises:
            FloatingPointError: as `learn`.
        """
        order = random.Random(f"{self.method.seed}/{self.passed}")  # noqa: S311 - repeats
        losses = self._ppo if self.method.name == "ppo" else self._impala
        for loss in losses(order):
            self._update(loss)
            yield loss
        self.passed += 1

    def _update(self, loss: Loss) -> None:
        if not bool(loss.total.isfinite()):
            raise FloatingPointError(f"the loss of update {self.updates + 1} is not finite")
        self._optimizer.zero_grad(set_to_none=True)
        loss.total.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._parameters, self.method.clip_norm)
        self._optimizer.step()
        self.updates += 1

    def _ppo(self, order: random.Random) -> Iterator[Loss]:
        """Yield the loss of each batch; advantages are of the network as the pass begins."""
        method = self.method
        told = [self._returns(episode) for episode in self._episodes]
        steps = [
            (decision, float(returns.advantages[place]), float(returns.targets[place]))
            for episode, returns in zip(self._episodes, told, strict=True)
            for place, decision in enumerate(episode.decisions)
        ]
        if not steps:
            return
        every = torch.tensor([advantage for _, advantage, _ in steps])
        mean, spread = float(every.mean()), float(every.std(correction=0))
        order.shuffle(steps)
        for start in range(0, len(steps), method.batch):
            some = steps[start : start + method.batch]
            asked = ask(self.network, [decision for decision, _, _ in some])
            advantages = torch.tensor([advantage for _, advantage, _ in some])
            yield ppo_loss(
                asked.log_probabilities - _drawn_with([decision for decision, _, _ in some]),
                (advantages - mean) / (spread + 1e-8),
                asked.values,
                torch.tensor([target for _, _, target in some]),
                asked.entropies,
                clip=method.clip,
                value_weight=method.value_weight,
                entropy_weight=method.entropy_weight,
            )

    def _returns(self, episode: Episode) -> Returns:
        with torch.no_grad():
            values = ask(self.network, episode.decisions).values
        return gae(
            episode.rewards,
            values,
            self._last_value(episode),
            discount=self.method.discount,
            decay=self.method.decay,
        )

    def _last_value(self, episode: Episode) -> float:
        if episode.cut_off_in is None:
            return 0.0
        with torch.no_grad():
            return float(self.network(episode.cut_off_in.graph).value[0])

    def _impala(self, order: random.Random) -> Iterator[Loss]:
        """Yield the loss of so many whole runs that they have a batch of steps together."""
        method = self.method
        waiting = list(self._episodes)
        order.shuffle(waiting)
        while waiting:
            runs = [waiting.pop()]
            while waiting and sum(map(len, runs)) < method.batch:
                runs.append(waiting.pop())
            decisions = [decision for run in runs for decision in run.decisions]
            asked = ask(self.network, decisions)
            log_ratios = asked.log_probabilities - _drawn_with(decisions)
            told = self._traced(runs, log_ratios.detach(), asked.values.detach())
            yield impala_loss(
                log_ratios,
                asked.log_probabilities,
                torch.cat([each.advantages for each in told]),
                asked.values,
                torch.cat([each.targets for each in told]),
                asked.entropies,
                value_weight=method.value_weight,
                entropy_weight=method.entropy_weight,
            )

    def _traced(self, runs: Sequence[Episode], log_ratios: Tensor, values: Tensor) -> list[Returns]:
        lengths = [len(run) for run in runs]
        return [
            vtrace(
                ratios,
                run.rewards,
                value,
                self._last_value(run),
                discount=self.method.discount,
                most_rho=self.method.most_rho,
                most_c=self.method.most_c,
            )
            for run, ratios, value in zip(
                runs, torch.split(log_ratios, lengths), torch.split(values, lengths), strict=True
            )
        ]

    def finish(self) -> PolicyNetwork:
        """Return the network with all that was learned in its own weights."""
        if self.method.rank is not None:
            lora.merge(self.network)
        return self.network.requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """Return what a learner that goes on needs, to be taken between two passes."""
        return {
            "method": self.method.to_json(),
            "runs": [episode.run for episode in self._episodes],
            "network": self.network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "passed": self.passed,
            "updates": self.updates,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            ValueError: it is of another method or other runs; nothing has changed then.
        """
        if state["method"] != self.method.to_json():
            raise ValueError("what was kept is of another method")
        if state["runs"] != [episode.run for episode in self._episodes]:
            raise ValueError("what was kept is of other runs")
        self.network.load_state_dict(state["network"], strict=True)
        self._optimizer.load_state_dict(state["optimizer"])
        self.passed, self.updates = state["passed"], state["updates"]


def ask(network: PolicyNetwork, decisions: Sequence[RecordedDecision]) -> Asked:
    """Ask a network about decisions, those on graphs of one size together."""
    alike: dict[Sizes, list[int]] = defaultdict(list)
    for place, decision in enumerate(decisions):
        alike[decision.graph.sizes].append(place)
    order = torch.tensor([place for places in alike.values() for place in places])
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for places in alike.values():
        some = [decisions[place] for place in places]
        output = network(stacked([decision.graph for decision in some]))
        again = rescored(output, some)
        found.append((again.log_probabilities, output.value, again.entropies))
    back = order.argsort()
    return Asked(*(torch.cat(each)[back] for each in zip(*found, strict=True)))


def _drawn_with(decisions: Sequence[RecordedDecision]) -> Tensor:
    """Return (N,): log μ of the actions."""
    return torch.tensor([decision.log_probability for decision in decisions])
