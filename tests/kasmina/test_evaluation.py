"""Losses by sample or by batch, and several variants measured in one pass over the data."""

import functools
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_async.kasmina.evaluation import EmptyLoaderError, SampleLoss, evaluate
from esper_async.kasmina.modes import evaluation_mode
from tests.growth_hosts import make_batches, make_host

OUTPUT = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
TARGET = torch.tensor([0, 1, 2, 0, 1, 2])


def plain(output: Tensor, target: Tensor) -> Tensor:
    return F.cross_entropy(output, target)


@pytest.mark.parametrize(
    ("loss", "paired_by"),
    [
        (F.cross_entropy, "sample"),
        (nn.CrossEntropyLoss(), "sample"),
        (functools.partial(F.cross_entropy, label_smoothing=0.1), "sample"),
        (plain, "batch"),
        (nn.CrossEntropyLoss(reduction="sum"), "batch"),
    ],
)
def test_a_loss_is_paired_as_finely_as_it_allows(loss: Any, paired_by: str) -> None:
    sample_loss = SampleLoss(loss)
    losses, weight = sample_loss.each(OUTPUT, TARGET, 6)

    assert sample_loss.paired_by == paired_by
    assert losses.shape == ((6,) if paired_by == "sample" else (1,))
    assert weight == (1.0 if paired_by == "sample" else 6.0)
    torch.testing.assert_close(losses.mean(), loss(OUTPUT, TARGET).double())


def test_a_cross_entropy_is_known_to_be_in_nats_and_another_loss_is_not() -> None:
    smooth = functools.partial(F.cross_entropy, label_smoothing=0.1)
    assert all(SampleLoss(loss).in_nats for loss in (F.cross_entropy, smooth, nn.NLLLoss()))
    assert not any(SampleLoss(loss).in_nats for loss in (F.mse_loss, nn.L1Loss(), plain))


def test_asking_for_samples_leaves_the_callers_loss_as_it_was() -> None:
    loss = nn.CrossEntropyLoss()
    SampleLoss(loss).each(OUTPUT, TARGET, 6)
    assert loss.reduction == "mean"


def test_tokens_are_averaged_within_their_sample() -> None:
    losses, _ = SampleLoss(F.cross_entropy).each(OUTPUT, TARGET, 3)
    each = F.cross_entropy(OUTPUT, TARGET, reduction="none").double()
    torch.testing.assert_close(losses, each.reshape(3, 2).mean(dim=1))


def test_a_mean_over_batches_counts_samples_the_last_partial_one_included() -> None:
    model = make_host("mlp").eval()
    inputs, targets = make_batches("mlp", count=1, size=10)[0]
    loader = [(inputs[:8], targets[:8]), (inputs[8:], targets[8:])]
    with torch.no_grad():
        whole = F.cross_entropy(model(inputs), targets)
    for loss in (F.cross_entropy, plain):
        found = evaluate({"host": lambda b: (model(b[0]), b[1])}, loader, SampleLoss(loss))
        assert found["host"].loss == pytest.approx(float(whole), rel=1e-5)


def test_the_loader_is_iterated_once_for_all_variants() -> None:
    class Counted:
        times = 0

        def __iter__(self) -> Any:
            self.times += 1
            return iter(make_batches("mlp", count=2))

    loader = Counted()
    variant = lambda b: (b[0][:, :3], b[1])  # noqa: E731
    found = evaluate({"host": variant, "again": variant}, loader, SampleLoss(F.cross_entropy))

    assert loader.times == 1
    assert torch.equal(found["host"].losses, found["again"].losses)


def test_metrics_may_be_given_by_sample_or_by_batch() -> None:
    metrics = {
        "each": lambda output, target: output.argmax(1) == target,
        "all": lambda output, target: (output.argmax(1) == target).float().mean(),
    }
    loader = make_batches("mlp", count=2, size=10)
    found = evaluate(
        {"host": lambda b: (b[0][:, :3], b[1])},
        loader,
        SampleLoss(F.cross_entropy),
        metrics=metrics,
    )["host"]
    assert found.metrics["each"] == pytest.approx(found.metrics["all"])
    assert found.values["each"].shape == (20,)
    assert found.values["all"].shape == (2,)


def test_a_loader_without_batches_is_an_error() -> None:
    with pytest.raises(EmptyLoaderError, match="at least one"):
        evaluate({"host": lambda b: b}, [], SampleLoss(F.cross_entropy))


def test_a_loss_whose_values_do_not_divide_by_samples_is_an_error() -> None:
    with pytest.raises(ValueError, match="6 values for a batch of 4"):
        SampleLoss(F.cross_entropy).each(OUTPUT, TARGET, 4)


def test_evaluation_mode_gives_every_submodule_its_own_mode_back() -> None:
    model = make_host("conv2d")
    model.stem.eval()  # type: ignore[operator, union-attr]
    before = [part.training for part in model.modules()]
    with pytest.raises(KeyError), evaluation_mode([model]):
        assert not any(part.training for part in model.modules())
        raise KeyError
    assert [part.training for part in model.modules()] == before
