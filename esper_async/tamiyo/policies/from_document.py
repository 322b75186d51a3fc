"""`learned`: the policy that a document of a learner describes, and the one that comes along."""

from collections.abc import Mapping
from typing import Any

from esper_async.tamiyo.errors import CorruptPolicyError
from esper_async.tamiyo.policies.awr import AwrPolicy
from esper_async.tamiyo.policies.bandit import BanditPolicy
from esper_async.tamiyo.policies.graph import GraphPolicy
from esper_async.tamiyo.policies.learned import FeatureVersionError
from esper_async.tamiyo.policies.linear_belief import LinearBelief
from esper_async.tamiyo.policies.policy import Policy
from esper_async.tamiyo.policies.softmax_ensemble import SoftmaxEnsemble
from esper_async.tamiyo.shipped import shipped_document


def learned_of(document: Mapping[str, Any]) -> SoftmaxEnsemble | LinearBelief:
    """Return what a document holds.

    Raises:
        FeatureVersionError: it is about features of another version.
        CorruptPolicyError: it holds nothing that a policy of this program decides by.
    """
    kinds = {each.kind: each for each in (SoftmaxEnsemble, LinearBelief)}
    try:
        return kinds[document["kind"]].from_json(document)
    except KeyError as error:
        raise CorruptPolicyError(
            f"no policy can be made of this document: {error} is missing or not known; kinds are "
            f"{', '.join(kinds)}"
        ) from error
    except FeatureVersionError:
        raise
    except (TypeError, ValueError) as error:
        raise CorruptPolicyError(f"no policy can be made of this document: {error}") from error


def policy_of(document: Mapping[str, Any], seed: int) -> Policy:
    """Return the policy of a document; raises as `learned_of` does.

    Raises:
        PolicyFileError: the graph policy in it cannot be used.
    """
    if document.get("kind") == GraphPolicy.name:
        return GraphPolicy.unpack(seed, document)
    learned = learned_of(document)
    if isinstance(learned, LinearBelief):
        return BanditPolicy(seed, belief=learned)
    return AwrPolicy(seed, learned)


def shipped_policy(seed: int) -> Policy:
    """Return the policy that comes with the program; raises as `shipped_document` does."""
    return policy_of(shipped_document(), seed)
