"""The averaged weights on which a trial is judged."""

import torch
from torch import nn

from esper_async.kasmina.averaging import WeightAverage


def test_early_averages_are_plain_means() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, horizon_steps=10)
    seen = []
    for value in (1.0, 2.0, 6.0):
        with torch.no_grad():
            model.weight.fill_(value)
        average.update()
        seen.append(float(average.tensors()["weight"][0, 0]))

    assert torch.allclose(torch.tensor(seen), torch.tensor([1.0, 1.5, 3.0]))


def test_past_the_horizon_the_past_decays() -> None:
    model = nn.Linear(2, 2)
    average = WeightAverage(model, horizon_steps=2)
    with torch.no_grad():
        model.weight.fill_(0.0)
        average.update()
        average.update()
        model.weight.fill_(8.0)
    average.update()
    average.update()

    assert float(average.tensors()["weight"][0, 0]) == 6.0


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 3)
        mask = torch.full((3, 3), float("-inf")).triu(1)
        self.register_buffer("mask", mask)


def test_a_mask_of_infinities_stays_as_it_is() -> None:
    model = Masked()
    average = WeightAverage(model, horizon_steps=5)
    for _ in range(3):
        average.update()

    assert not any(torch.isnan(tensor).any() for tensor in average.tensors().values())


def test_integers_are_not_averaged() -> None:
    average = WeightAverage(nn.BatchNorm1d(2), horizon_steps=5)

    assert "num_batches_tracked" not in average.tensors()
    assert "running_mean" in average.tensors()


def test_an_average_that_was_saved_goes_on_where_it_was() -> None:
    torch.manual_seed(0)
    model = nn.Linear(2, 2)
    one = WeightAverage(model, horizon_steps=3)
    one.update()
    with torch.no_grad():
        model.weight.add_(1.0)
    one.update()
    other = WeightAverage(model, horizon_steps=9)
    other.load_state_dict(one.state_dict())
    with torch.no_grad():
        model.weight.mul_(2.0)
    one.update()
    other.update()

    assert torch.equal(one.tensors()["weight"], other.tensors()["weight"])
