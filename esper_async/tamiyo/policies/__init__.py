"""Policies by name."""

from collections.abc import Callable, Sequence

from esper_async.tamiyo.policies.bandit import BanditPolicy
from esper_async.tamiyo.policies.from_document import shipped_policy
from esper_async.tamiyo.policies.graph import GraphPolicy
from esper_async.tamiyo.policies.heuristic import HeuristicPolicy
from esper_async.tamiyo.policies.largest import LargestPolicy
from esper_async.tamiyo.policies.policy import Policy
from esper_async.tamiyo.policies.sampled import PeriodicPolicy, RandomPolicy
from esper_async.tamiyo.policies.static import StaticPolicy
from esper_async.tamiyo.policies.triggers import TRIGGERS, Trigger
from esper_async.tamiyo.shipped import LEARNED


class UnknownPolicyError(ValueError):
    """No policy has this name."""


POLICIES: dict[str, Callable[[int], Policy]] = {
    "static": lambda seed: StaticPolicy(),
    "random": RandomPolicy,
    "periodic": PeriodicPolicy,
    "largest": LargestPolicy,
    "heuristic": HeuristicPolicy,
    "bandit": BanditPolicy,
    "gnn": GraphPolicy.load,
    LEARNED: shipped_policy,
}


def make_policy(name: str, seed: int, *, triggers: Sequence[Trigger] = ()) -> Policy:
    """Return a policy by name; `triggers` are what tournaments of the heuristic wait for.

    Raises:
        UnknownPolicyError: the name is not known.
        PolicyFileError: the file of a learned policy cannot be used.
    """
    if name not in POLICIES:
        raise UnknownPolicyError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}")
    if triggers:
        check_triggers(name, triggers)
        return HeuristicPolicy(seed, triggers=triggers)
    return POLICIES[name](seed)


def check_triggers(policy: str, triggers: Sequence[str]) -> None:
    """Refuse triggers that are not known, and those of another policy than the heuristic.

    Raises:
        ValueError: which, and what there is.
    """
    if triggers and policy != HeuristicPolicy.name:
        raise ValueError(
            f"triggers are for the policy {HeuristicPolicy.name!r}, and {policy!r} has none"
        )
    unknown = [name for name in triggers if name not in TRIGGERS]
    if unknown:
        raise ValueError(f"unknown trigger {unknown[0]!r}; known: {', '.join(TRIGGERS)}")


def sees_graph(policy: Policy) -> bool:
    """Whether a policy reads the whole view: sites, gradients, all that was measured of seeds."""
    return bool(getattr(policy, "sees_graph", False))


__all__ = [
    "POLICIES",
    "Policy",
    "UnknownPolicyError",
    "check_triggers",
    "make_policy",
    "sees_graph",
]
