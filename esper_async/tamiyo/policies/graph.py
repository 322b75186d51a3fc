"""`gnn`: a graph network decides, by pointing at seeds, sites and blueprints."""

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from esper_async.kasmina.operations import Tuning, Verb
from esper_async.tamiyo.command import (
    Command,
    Cull,
    Decision,
    Germinate,
    NoOp,
    Operate,
)
from esper_async.tamiyo.errors import CorruptPolicyError, PolicyFileError
from esper_async.tamiyo.evidence import Packer
from esper_async.tamiyo.explaining import strongest
from esper_async.tamiyo.graph.builder import GraphBuilder, GraphState
from esper_async.tamiyo.legality import Operation
from esper_async.tamiyo.network import GraphBatch, PolicyNetwork, PolicyOutput
from esper_async.tamiyo.network.choosing import (
    FLOOR,
    Action,
    Scored,
    choose,
    drawn_by,
    likeliest,
    most_likely,
)
from esper_async.tamiyo.network.policy_file import load_policy, unpack_policy
from esper_async.tamiyo.network.transformer import KeptBiases
from esper_async.tamiyo.policies.draw import Draw
from esper_async.tamiyo.policies.learned import check_same_policy
from esper_async.tamiyo.view import View

SHIPPED = Path(__file__).with_name("imitation.policy")
TOLD_ALTERNATIVES = 5
CONSERVATIVE_SHARPNESS = 2.0
"""What conservative mode multiplies the scores by: what is likely becomes likelier."""


class GraphPolicy:
    """Decide with a graph network; deterministic in its seed and what it has seen.

    The network is asked in evaluation mode, in single precision, without gradients, on the CPU.

    Args:
        seed: the choices derive from it.
        network: what decides; its mode is set to evaluation, and its weights to need no gradient:
            an explanation wants those of its features alone.
        version: as records name it.
        floor: share of every head that is spread over what is legal.
        greedy: take the likeliest of every head, for comparisons; the probabilities stay those of
            a draw.
    """

    name: ClassVar[str] = "gnn"
    sees_graph: ClassVar[bool] = True

    def __init__(
        self,
        seed: int,
        network: PolicyNetwork,
        *,
        version: str,
        floor: float = FLOOR,
        greedy: bool = False,
    ) -> None:
        self.version = version
        self.network = network.eval().requires_grad_(False)
        self.builder = GraphBuilder()
        self._last: tuple[GraphState, Action] | None = None
        self._draw = Draw(seed, self.name)
        self._floor = floor
        self._greedy = greedy
        self._biases = KeptBiases(network.trunk)
        self._weights = network.weights()
        self._packer = Packer()

    @classmethod
    def load(cls, seed: int, path: Path = SHIPPED) -> "GraphPolicy":
        """Return the policy of a file.

        Raises:
            PolicyFileError: it is not there, or cannot be used.
        """
        try:
            network, header = load_policy(path)
        except FileNotFoundError as error:
            raise PolicyFileError(
                f"{path}: there is no such policy; `python -m esper_async.tamiyo.imitation` makes "
                f"one that imitates the heuristic"
            ) from error
        return cls(seed, network, version=header.version)

    @classmethod
    def unpack(cls, seed: int, document: Mapping[str, Any]) -> "GraphPolicy":
        """Return the policy of a document that `graph_document` has made.

        Raises:
            PolicyFileError: it cannot be used.
        """
        try:
            content = base64.b64decode(document["file"], validate=True)
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptPolicyError(f"no graph policy is in this document: {error!r}") from error
        network, header = unpack_policy(content, "the document")
        return cls(seed, network, version=header.version)

    def decide(self, view: View) -> Decision:
        """Return what the network chose, with the probability of the whole action.

        Raises:
            UnsoundScoresError: a score is not finite.
        """
        state = self.builder.state(view)
        output = self.scores(state)
        if view.conservative:
            output = output.sharpened(CONSERVATIVE_SHARPNESS)
        scored = Scored(state, output, floor=self._floor)
        pick = most_likely if self._greedy else drawn_by(self._draw.uniform)
        action = choose(scored, pick)
        self._last = state, action
        value = float(output.value[0])
        return Decision(
            command_of(action, state),
            _reason(action, value),
            float(np.exp(action.log_probability)),
            tuple(
                {"operation": operation, "target": target, "blueprint": blueprint, "probability": p}
                for operation, target, blueprint, p in likeliest(scored, TOLD_ALTERNATIVES)
            ),
            value=value,
            evidence=self._packer.pack(state, action.heads, value),
        )

    def scores(self, state: GraphState) -> PolicyOutput:
        """Return the network's scores of a graph, a batch of one, without gradients."""
        with torch.inference_mode():
            biases = self._biases.of(state.structure)
            return self.network.forward(GraphBatch.of([state]), biases, self._weights)

    def explain(self) -> list[dict[str, Any]]:
        """Return which features moved the last decision most, the strongest first.

        The effect of a feature is its value times the gradient of the action's log-probability:
        what the action would lose, to first order, if the feature read 0.
        """
        if self._last is None:
            return []
        state, action = self._last
        return strongest(self.network, state, action, self._biases.of(state.structure))

    def first_candidate(self, view: View) -> dict[tuple[str, str], float]:
        """Return how likely each placement is the first candidate, if one is germinated at all."""
        state = self.builder.state(view)
        chances = Scored(state, self.scores(state), floor=self._floor).first_candidate()
        return {
            (placement.site, placement.blueprint): float(chances.flat[place])
            for place, placement in state.placements.items()
        }

    def warm(self, view: View) -> None:
        """Run the network twice on a view's padded sizes, so that the first decision is no slower.

        The choices to come stay what they were.
        """
        for _ in range(2):
            self.scores(self.builder.state(view))

    def state_dict(self) -> dict[str, Any]:
        """Return the random stream's state, and which weights it belongs to."""
        return {"version": self.version, "draw": self._draw.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over what `state_dict` returned.

        Raises:
            ValueError: it is that of other weights.
        """
        check_same_policy(state["version"], self.version)
        self._draw.load_state_dict(state["draw"])


def graph_document(path: Path, *, lineage: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy's file, and what it was learned from, as JSON values for the registry.

    Raises:
        PolicyFileError: it cannot be used.
        FileNotFoundError: there is none.
    """
    _, header = load_policy(path)
    return {
        "kind": GraphPolicy.name,
        "features": header.features,
        "file": base64.b64encode(path.read_bytes()).decode(),
        "lineage": {**header.lineage, **lineage},
    }


def command_of(action: Action, state: GraphState) -> Command:
    """Return an action as the command that a run carries out."""
    if action.seed is None:
        return Germinate(action.candidates) if action.candidates else NoOp()
    seed = state.seeds[action.seed].id
    if action.operation == "CULL":
        return Cull(seed)
    tuning = None if action.tune is None else Tuning(ramp=action.tune)
    return Operate(seed, _VERBS[action.operation], tuning)


_VERBS: dict[Operation, Verb] = {
    "FOSSILIZE": "FOSSILIZE",
    "START_TRAINING": "START_TRAINING",
    "START_GRAFTING": "START_GRAFTING",
    "STABILIZE": "STABILIZE",
    "EVALUATE": "EVALUATE",
    "FINE_TUNE": "FINE_TUNE",
    "CANCEL": "CANCEL",
}


def _reason(action: Action, value: float) -> str:
    chance = action.heads[0].probability
    what = action.operation.lower()
    if action.candidates:
        sites = len({candidate.site for candidate in action.candidates})
        what = f"tournament of {len(action.candidates)} over {sites} sites"
    return f"{what}: {chance:.0%} of the operations, expected return {value:+.2f}"
