"""Generalised advantage estimation, over one trajectory.

Schulman, Moritz, Levine, Jordan and Abbeel 2016, "High-Dimensional Continuous Control Using
Generalized Advantage Estimation", section 3:

    δ_t = r_t + γ V(s_{t+1}) - V(s_t)                             their eq. 10
    A_t = δ_t + γ λ A_{t+1}                                       their eq. 16, summed from behind
"""

from torch import Tensor, zeros_like

from esper_async.simic.returns import Returns, followers


def gae(
    rewards: Tensor, values: Tensor, last_value: float, *, discount: float, decay: float
) -> Returns:
    """Return advantages (T,) and targets (T,) of the values.

    Args:
        rewards: (T,), of each step.
        values: (T,), of the state that each step began in.
        last_value: of the state behind the last step: 0 where the episode ended, the value of that
            very state where it was cut off.
        discount: γ.
        decay: λ; at 0 the advantage is of one step, at 1 of all that came.
    """
    errors = rewards + discount * followers(values, last_value) - values
    advantages = zeros_like(errors)
    running = 0.0
    for step in reversed(range(len(errors))):
        running = float(errors[step]) + discount * decay * running
        advantages[step] = running
    return Returns(advantages, advantages + values)
