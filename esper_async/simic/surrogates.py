"""What a learner of the graph policy makes small: PPO's loss, and that of IMPALA.

Schulman, Wolski, Dhariwal, Radford and Klimov 2017, "Proximal Policy Optimization Algorithms",
eqs. 7 and 9; Espeholt et al. 2018 (as in `vtrace`), section 4.2. All terms are means over steps.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """A loss and its parts, scalars; `kl` is estimated, and weighs nothing.

    Schulman 2020, "Approximating KL Divergence", has the estimate: mean of (r - 1) - log r, which
    is never below 0.
    """

    total: Tensor
    policy: Tensor
    value: Tensor
    entropy: Tensor
    kl: Tensor


def ppo_loss(
    log_ratios: Tensor,
    advantages: Tensor,
    values: Tensor,
    targets: Tensor,
    entropies: Tensor,
    *,
    clip: float,
    value_weight: float,
    entropy_weight: float,
) -> Loss:
    """Return the clipped surrogate's loss of N steps, all (N,).

    Args:
        log_ratios: log π - log μ of the actions, with gradients; μ drew them.
        advantages: without gradients.
        values: of the states, with gradients.
        targets: of the values.
        entropies: of the distributions that were drawn from, with gradients.
        clip: ε.
    """
    ratios = log_ratios.exp()
    clipped = ratios.clamp(1.0 - clip, 1.0 + clip)
    policy = -torch.minimum(ratios * advantages, clipped * advantages).mean()
    return _sum(policy, log_ratios, values, targets, entropies, value_weight, entropy_weight)


def impala_loss(
    log_ratios: Tensor,
    log_probabilities: Tensor,
    advantages: Tensor,
    values: Tensor,
    targets: Tensor,
    entropies: Tensor,
    *,
    value_weight: float,
    entropy_weight: float,
) -> Loss:
    """Return the loss of N steps, all (N,); `advantages` and `targets` are of `vtrace`.

    `log_probabilities` are log π of the actions, with gradients.
    """
    policy = -(advantages * log_probabilities).mean()
    return _sum(policy, log_ratios, values, targets, entropies, value_weight, entropy_weight)


def _sum(
    policy: Tensor,
    log_ratios: Tensor,
    values: Tensor,
    targets: Tensor,
    entropies: Tensor,
    value_weight: float,
    entropy_weight: float,
) -> Loss:
    value = 0.5 * (values - targets).square().mean()
    entropy = entropies.mean()
    total = policy + value_weight * value - entropy_weight * entropy
    kl = (log_ratios.exp() - 1.0 - log_ratios).mean().detach()
    return Loss(total, policy.detach(), value.detach(), entropy.detach(), kl)
