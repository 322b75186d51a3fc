"""The losses of PPO and IMPALA, against their formulas by hand, and where their gradients go."""

import math

import pytest
import torch

from esper_async.simic.surrogates import Loss, impala_loss, ppo_loss

NONE = torch.zeros(2)


def ppo(log_ratios: torch.Tensor, advantages: torch.Tensor, entropy_weight: float = 0.0) -> Loss:
    return ppo_loss(
        log_ratios,
        advantages,
        torch.tensor([1.0, 2.0]),
        torch.tensor([1.0, 4.0]),
        torch.tensor([0.5, 1.5]),
        clip=0.2,
        value_weight=0.5,
        entropy_weight=entropy_weight,
    )


def test_ppo_is_clipped_where_that_makes_it_worse_and_nowhere_else():
    log_ratios = torch.log(torch.tensor([1.5, 0.5]))
    gained = ppo(log_ratios, torch.tensor([2.0, 2.0]))
    assert float(gained.policy) == pytest.approx(-(1.2 * 2.0 + 0.5 * 2.0) / 2)
    lost = ppo(log_ratios, torch.tensor([-2.0, -2.0]))
    assert float(lost.policy) == pytest.approx(-(1.5 * -2.0 + 0.8 * -2.0) / 2)


def test_ppo_learns_nothing_more_from_what_it_already_does_more_often():
    log_ratios = torch.log(torch.tensor([1.5, 1.1])).requires_grad_()
    ppo(log_ratios, torch.tensor([1.0, 1.0])).total.backward()
    assert log_ratios.grad is not None
    assert log_ratios.grad.tolist() == [0.0, pytest.approx(-1.1 / 2)]


def test_a_loss_is_the_weighted_sum_of_its_parts():
    found = ppo(NONE, NONE, entropy_weight=0.01)
    assert float(found.value) == pytest.approx(0.5 * (0.0 + 4.0) / 2)
    assert float(found.entropy) == pytest.approx(1.0)
    assert float(found.total) == pytest.approx(0.5 * 1.0 - 0.01 * 1.0)
    assert float(found.kl) == 0.0
    moved = ppo(torch.tensor([0.1, -0.1]), NONE)
    by_hand = (math.exp(0.1) + math.exp(-0.1)) / 2 - 1.0
    assert float(moved.kl) == pytest.approx(by_hand, rel=1e-3)


def test_impala_raises_what_brought_more_and_lowers_what_brought_less():
    logs = torch.log(torch.tensor([0.5, 0.25])).requires_grad_()
    found = impala_loss(
        NONE,
        logs,
        torch.tensor([2.0, -1.0]),
        NONE,
        NONE,
        NONE,
        value_weight=0.5,
        entropy_weight=0.0,
    )
    assert float(found.policy) == pytest.approx(-(2.0 * math.log(0.5) - math.log(0.25)) / 2)
    found.total.backward()
    assert logs.grad is not None
    assert logs.grad.tolist() == [-1.0, 0.5]
