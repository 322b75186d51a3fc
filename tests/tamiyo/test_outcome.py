"""What a command has come to is said by the benefit against the twin alone, and as text."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_async.tamiyo.outcome import LEAST_MARGIN, Interval, chance_above_zero, verdict
from esper_async.tamiyo.report_text import report_text


@pytest.mark.parametrize(
    ("benefit", "outcome"),
    [
        (None, "NEUTRAL"),
        (Interval(0.1, 0.05, 0.15), "SUCCESS"),
        (Interval(0.01, 0.004, 0.016), "NEUTRAL"),
        (Interval(-0.1, -0.15, -0.05), "REGRESSION"),
        (Interval(-0.01, -0.016, -0.004), "NEUTRAL"),
        (Interval(0.01, 0.008, 0.012, estimated=True), "NEUTRAL"),
        (Interval(0.05, 0.03, 0.07, estimated=True), "SUCCESS"),
        (Interval(math.nan, -math.inf, math.inf), "NEUTRAL"),
    ],
)
def test_an_outcome_is_told_only_where_it_is_sure(benefit: Interval | None, outcome: str) -> None:
    found = verdict(benefit)
    assert found.outcome == outcome
    assert found.rule


def test_the_margin_is_the_gates_own_and_twice_that_for_an_estimate() -> None:
    assert verdict(Interval(0.1, 0.05, 0.15), margin=0.06).outcome == "NEUTRAL"
    assert verdict(Interval(0.1, 0.05, 0.15)).margin == LEAST_MARGIN
    assert verdict(Interval(0.1, 0.05, 0.15, estimated=True)).margin == 2 * LEAST_MARGIN


@given(st.floats(-1, 1), st.floats(1e-4, 1))
def test_confidence_is_a_probability_and_grows_with_the_effect(mean: float, half: float) -> None:
    found = verdict(Interval(mean, mean - half, mean + half))
    assert found.confidence is not None
    assert 0.5 <= found.confidence <= 1.0 or found.outcome != "NEUTRAL"
    chance = chance_above_zero(Interval(mean, mean - half, mean + half))
    more = chance_above_zero(Interval(mean + 0.1, mean + 0.1 - half, mean + 0.1 + half))
    assert chance is not None
    assert more is not None
    assert more >= chance


def test_a_report_reads_as_text_and_claims_nothing_that_was_not_measured() -> None:
    report = {
        "outcome": "SUCCESS",
        "operation": "GERMINATE",
        "blueprint": "BP009",
        "site": "stem.1",
        "seed": "s1",
        "window": {"from": 4, "to": 12},
        "rule": "its lower bound clears the margin",
        "margin": 0.005,
        "confidence": 0.991,
        "benefit_vs_twin": {"mean": 0.1, "low": 0.05, "high": 0.15, "unit": "nats"},
        "clean_contribution": None,
        "dependence": None,
        "cost": {"candidates": 4, "shadow_passes": 120, "parameters_kept": 1200},
        "observed_change": {"validation_loss": -0.3},
        "mitigations": ["ramp sigmoid"],
        "losers": [{"blueprint": "BP002", "site": "stem.0", "failed_gate": "G2",
                    "clean_contribution": None}],
        "policy": "heuristic",
        "policy_version": "2",
    }  # fmt: skip
    text = "\n".join(report_text(report))
    assert text.startswith("SUCCESS: it helped.")
    assert "+0.1000 [+0.0500, +0.1500] nats" in text
    assert "clean contribution: not measured" in text
    assert "the host's own learning included" in text
    assert "confidence 99.1%" in text
    assert "BP002 at stem.0 failed G2" in text
    assert "mitigated: ramp sigmoid" in text
    assert "1,200 parameters kept" in text
