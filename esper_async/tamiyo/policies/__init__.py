"""Policies by name."""

from collections.abc import Callable

from esper_async.tamiyo.policies.bandit import BanditPolicy
from esper_async.tamiyo.policies.from_document import shipped_policy
from esper_async.tamiyo.policies.graph import GraphPolicy
from esper_async.tamiyo.policies.heuristic import HeuristicPolicy
from esper_async.tamiyo.policies.largest import LargestPolicy
from esper_async.tamiyo.policies.policy import Policy
from esper_async.tamiyo.policies.sampled import PeriodicPolicy, RandomPolicy
from esper_async.tamiyo.policies.static import StaticPolicy
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


def make_policy(name: str, seed: int) -> Policy:
    """Return a policy by name.

    Raises:
        UnknownPolicyError: the name is not known.
        PolicyFileError: the file of a learned policy cannot be used.
    """
    if name not in POLICIES:
        raise UnknownPolicyError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}")
    return POLICIES[name](seed)


def sees_graph(policy: Policy) -> bool:
    """Whether a policy reads the whole view: sites, gradients, all that was measured of seeds."""
    return bool(getattr(policy, "sees_graph", False))


__all__ = ["POLICIES", "Policy", "UnknownPolicyError", "make_policy", "sees_graph"]
