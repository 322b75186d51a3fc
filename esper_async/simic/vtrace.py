"""V-trace, over one trajectory: values of a policy from what an older one did.

Espeholt et al. 2018, "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner
Architectures", section 4:

    ρ_t  = min(ρ̄, π(a_t|x_t) / μ(a_t|x_t)),  c_t = min(c̄, the same)
    δ_t  = ρ_t (r_t + γ V(x_{t+1}) - V(x_t))
    v_t  = V(x_t) + δ_t + γ c_t (v_{t+1} - V(x_{t+1}))            their remark 1, their eq. 1
    A_t  = ρ_t (r_t + γ v_{t+1} - V(x_t))                         section 4.2, policy gradient
"""

from torch import Tensor, zeros_like

from esper_async.simic.returns import Returns, followers


def vtrace(
    log_ratios: Tensor,
    rewards: Tensor,
    values: Tensor,
    last_value: float,
    *,
    discount: float,
    most_rho: float = 1.0,
    most_c: float = 1.0,
) -> Returns:
    """Return A (T,), whose ρ is in it already, and v (T,).

    Args:
        log_ratios: (T,), log π - log μ of each action.
        rewards: (T,).
        values: (T,), V of the state that each step began in.
        last_value: V of the state behind the last step: 0 where the episode ended, that of that
            very state where it was cut off. v of it is the same.
        discount: γ.
        most_rho: ρ̄.
        most_c: c̄, at most ρ̄.
    """
    ratios = log_ratios.exp()
    rho, c = ratios.clamp(max=most_rho), ratios.clamp(max=most_c)
    errors = rho * (rewards + discount * followers(values, last_value) - values)
    beyond = zeros_like(values)  # v - V
    running = 0.0
    for step in reversed(range(len(values))):
        running = float(errors[step]) + discount * float(c[step]) * running
        beyond[step] = running
    targets = values + beyond
    advantages = rho * (rewards + discount * followers(targets, last_value) - values)
    return Returns(advantages, targets)
