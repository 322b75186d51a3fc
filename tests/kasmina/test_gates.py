"""The gates as pure functions: what is not measured fails, what is not finite fails."""

import math
import re
from typing import Any

import pytest
import torch

from esper_async.kasmina.gates import (
    gradient_health,
    interface_holds,
    reset_done,
    stability,
    system_impact,
)
from esper_async.kasmina.probe import SiteStatistics
from esper_async.kasmina.quantity import Quantity, paired_difference

NAN = math.nan


def quantity(low: float, *, estimated: bool = False) -> Quantity:
    return Quantity(low + 0.01, low, low + 0.02, 100, "sample", estimated=estimated)


@pytest.mark.parametrize(
    ("steps", "finite", "unreached"),
    [(0, True, 0), (5, None, 0), (5, True, None), (5, False, 0), (5, True, 1)],
)
def test_gradient_health_fails_on_what_is_missing_infinite_or_unreached(
    steps: int, finite: bool | None, unreached: int | None
) -> None:
    result = gradient_health(
        parameters=3, steps=steps, finite=finite, unreached=unreached, boundary=1
    )
    assert not result.passed


def test_gradient_health_passes_finite_and_reached_and_does_not_apply_without_parameters() -> None:
    assert gradient_health(parameters=3, steps=5, finite=True, unreached=0, boundary=1).passed
    assert gradient_health(parameters=0, steps=0, finite=None, unreached=None, boundary=1).passed


def test_a_tensor_without_gradient_is_excused_by_what_its_blueprint_declares() -> None:
    measured = {"parameters": 3, "steps": 30, "unreached": 1, "boundary": 1}
    excused = gradient_health(**measured, finite=True, exemption="it is a table of offsets")
    assert excused.passed
    assert "1 tensors received no gradient, and need none: it is a table" in excused.reason
    assert not gradient_health(**measured, finite=False, exemption="it is a table").passed


@pytest.mark.parametrize("rms", [100.1, math.inf, NAN])
def test_stability_refuses_weights_that_ran_away_however_well_they_do(rms: float) -> None:
    refused = stability(quantity(1.0), margin=-0.02, weight_rms=rms, boundary=1)
    assert not refused.passed
    assert "run away" in refused.reason
    assert stability(quantity(1.0), margin=-0.02, weight_rms=0.0, boundary=1).passed


@pytest.mark.parametrize("low", [-0.02, -0.5, NAN, -math.inf])
def test_stability_refuses_a_lower_bound_at_or_below_its_margin(low: float) -> None:
    assert not stability(quantity(low), margin=-0.02, weight_rms=1.0, boundary=1).passed


@pytest.mark.parametrize(("slowdown", "passes"), [(3.0, True), (3.1, False), (None, False)])
def test_stability_refuses_what_takes_longer_than_its_budget(
    slowdown: float | None, passes: bool
) -> None:
    measured = {"margin": -0.02, "weight_rms": 1.0, "boundary": 1, "slowdown": slowdown}
    gate = stability(quantity(1.0), **measured, latency_budget=3.0)
    assert gate.passed is passes
    assert gate.numbers["slowdown"] == slowdown
    assert passes or "the budget is 3" in gate.reason
    assert stability(quantity(1.0), **measured).passed, "without a budget nobody looks"


def test_stability_accepts_a_little_harm_and_refuses_what_was_not_measured() -> None:
    assert stability(quantity(-0.019), margin=-0.02, weight_rms=1.0, boundary=1).passed
    assert not stability(None, margin=-0.02, weight_rms=1.0, boundary=1).passed


def site(mean: float = 0.0, std: float = 1.0, **further: Any) -> SiteStatistics:
    return SiteStatistics(mean, std, **{"not_finite": 0.0, "shapes": ((4, 8),), **further})


@pytest.mark.parametrize(
    ("on", "off"), [(None, 1.0), (1.0, None), (NAN, 1.0), (1.0, NAN), (math.inf, 1.0)]
)
def test_the_interface_holds_only_with_both_paths_finite(
    on: float | None, off: float | None
) -> None:
    seen = {"on": site(), "off": site(), "boundary": 1}
    assert not interface_holds(on_loss=on, off_loss=off, **seen).passed
    assert interface_holds(on_loss=1.0, off_loss=2.0, **seen).passed


@pytest.mark.parametrize(
    ("on", "off", "why"),
    [
        (None, site(), "not measured"),
        (site(), None, "not measured"),
        (site(not_finite=0.001), site(), r"0\.10% of the site's outputs are not finite"),
        (site(), site(not_finite=0.5), r"50\.00% of the site's outputs"),
        (site(NAN, NAN, not_finite=1.0), site(), "not finite"),
        (site(shapes=((4, 8, 8),)), site(), r"of shape \(4, 8, 8\), not \(4, 8\)"),
        (site(0.0, 101.0), site(), "exploded: it is 101 times"),
        (site(101.0, 0.5), site(), "exploded"),
        (site(math.inf, 1.0), site(), "exploded"),
        (site(0.0, 0.0099), site(), "collapsed: it varies 0.0099 times"),
        (site(1.0, 0.0), site(), "collapsed"),
        (site(0.0, NAN), site(), "exploded"),
    ],
)
def test_the_interface_does_not_hold_if_the_sites_output_changes_its_form(
    on: SiteStatistics | None, off: SiteStatistics | None, why: str
) -> None:
    gate = interface_holds(on_loss=1.0, off_loss=1.0, on=on, off=off, boundary=1)
    assert not gate.passed
    assert re.search(why, gate.reason)


@pytest.mark.parametrize(
    ("on", "off"),
    [
        (site(0.0, 99.0), site()),
        (site(0.0, 0.011), site()),
        (site(5.0, 2.0), site(0.0, 0.0)),  # what was silent has no scale to keep to
        (site(0.0, 0.0), site(0.0, 0.0)),
        (site(0.0, 1.0), site(10.0, 0.0)),
    ],
)
def test_the_interface_holds_within_wide_bounds_and_tells_its_numbers(
    on: SiteStatistics, off: SiteStatistics
) -> None:
    gate = interface_holds(on_loss=1.0, off_loss=1.0, on=on, off=off, boundary=1)
    assert gate.passed
    assert (gate.numbers["on_std"], gate.numbers["off_mean"]) == (on.std, off.mean)
    assert {"growth", "spread", "on_not_finite"} <= gate.numbers.keys()


@pytest.mark.parametrize("low", [0.005, 0.0, -1.0, NAN])
def test_impact_needs_a_lower_bound_above_its_margin(low: float) -> None:
    assert not system_impact(quantity(low), margin=0.005, boundary=1).passed


def test_an_estimated_impact_must_clear_twice_the_margin() -> None:
    assert system_impact(quantity(0.006), margin=0.005, boundary=1).passed
    assert not system_impact(quantity(0.006, estimated=True), margin=0.005, boundary=1).passed
    assert system_impact(quantity(0.011, estimated=True), margin=0.005, boundary=1).passed
    assert not system_impact(None, margin=0.005, boundary=1).passed


def test_reset_fails_while_a_trace_is_left_and_says_where() -> None:
    clean = {"modules": 0, "in_optimizers": 0}
    for name in clean:
        failed = reset_done(left={**clean, name: 2}, boundary=1)
        assert not failed.passed
        assert f"{name.replace('_', ' ')}: 2" in failed.reason
    passed = reset_done(left=clean, boundary=1)
    assert passed.passed
    assert passed.numbers == clean


def test_a_gates_json_has_none_for_what_is_not_finite() -> None:
    told = stability(quantity(-math.inf), margin=-0.02, weight_rms=1.0, boundary=3).to_json()

    assert told["numbers"]["low"] is None
    assert told["boundary"] == 3


def test_identical_branches_differ_by_exactly_nothing() -> None:
    losses = torch.rand(50, dtype=torch.float64)
    null = paired_difference(losses, losses.clone(), "sample")

    assert (null.mean, null.low, null.high) == (0.0, 0.0, 0.0)
    assert not system_impact(null, margin=0.005, boundary=1).passed


def test_a_difference_is_positive_when_the_seed_lowers_the_loss() -> None:
    without = torch.tensor([1.0, 2.0, 3.0])
    gain = paired_difference(without, without - 0.5, "sample")

    assert gain.mean == pytest.approx(0.5)
    assert gain.low == pytest.approx(0.5)
    assert gain.n == 3


def test_the_interval_is_the_normal_one_over_pairs() -> None:
    difference = torch.tensor([0.0, 2.0, 4.0, 6.0], dtype=torch.float64)
    found = paired_difference(difference, torch.zeros(4), "sample")
    half = 1.959963984540054 * float(difference.std()) / 2

    assert found.mean == 3.0
    assert found.low == pytest.approx(3.0 - half)
    assert found.high == pytest.approx(3.0 + half)


def test_one_pair_proves_nothing() -> None:
    found = paired_difference(torch.tensor([5.0]), torch.tensor([1.0]), "batch")

    assert found.mean == 4.0
    assert not system_impact(found, margin=0.005, boundary=1).passed


def test_a_loss_that_is_not_finite_is_accepted_by_no_gate() -> None:
    found = paired_difference(torch.tensor([1.0, NAN, 1.0]), torch.zeros(3), "sample")

    assert not stability(found, margin=-0.02, weight_rms=1.0, boundary=1).passed
    assert not system_impact(found, margin=0.005, boundary=1).passed


@pytest.mark.parametrize(("one", "other"), [((3,), (4,)), ((0,), (0,)), ((2, 2), (2, 2))])
def test_losses_of_other_samples_cannot_be_paired(
    one: tuple[int, ...], other: tuple[int, ...]
) -> None:
    with pytest.raises(ValueError, match="cannot pair"):
        paired_difference(torch.zeros(one), torch.zeros(other), "sample")
