"""Policies by name."""

from collections.abc import Callable

from esper_async.tamiyo.policies.heuristic import HeuristicPolicy
from esper_async.tamiyo.policies.largest import LargestPolicy
from esper_async.tamiyo.policies.policy import Policy
from esper_async.tamiyo.policies.sampled import PeriodicPolicy, RandomPolicy
from esper_async.tamiyo.policies.static import StaticPolicy


class UnknownPolicyError(ValueError):
    """No policy has this name."""


POLICIES: dict[str, Callable[[int], Policy]] = {
    "static": lambda seed: StaticPolicy(),
    "random": RandomPolicy,
    "periodic": PeriodicPolicy,
    "largest": LargestPolicy,
    "heuristic": HeuristicPolicy,
}


def make_policy(name: str, seed: int) -> Policy:
    """Return a policy by name.

    Raises:
        UnknownPolicyError: the name is not known.
    """
    if name not in POLICIES:
        raise UnknownPolicyError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}")
    return POLICIES[name](seed)


__all__ = ["POLICIES", "Policy", "UnknownPolicyError", "make_policy"]
