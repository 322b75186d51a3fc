"""The reward reads causal quantities only, pays for nothing but benefit, and cannot be fooled."""

import ast
from pathlib import Path

import pytest

import esper_async.simic.evidence
import esper_async.simic.reward
from esper_async.leyline import (
    FieldReport,
    FieldReportOutcome,
    SeedLifecycleStage,
    SeedOperation,
)
from esper_async.simic.evidence import Evidence, Measured, evidence_of
from esper_async.simic.reward import (
    FORMULA_VERSION,
    RewardVersionError,
    check_version,
    reward,
)
from tests.simic.experiences import decision, quantity, report

FORBIDDEN = {"dependence", "observed_change"}


def names_in(source: str) -> set[str]:
    """Every name, attribute, argument and string in a module."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        for field in ("id", "attr", "arg", "name", "value"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                found.add(value)
    return found


@pytest.mark.parametrize("module", [esper_async.simic.evidence, esper_async.simic.reward])
def test_neither_formula_nor_evidence_can_see_the_confounded_quantities(module):
    assert module.__file__ is not None
    assert not FORBIDDEN & names_in(Path(module.__file__).read_text())
    assert not FORBIDDEN & set(vars(module))


def test_the_check_above_would_notice_a_formula_that_reads_dependence():
    assert FORBIDDEN & names_in("def reward(report):\n    return report.dependence.mean\n")
    assert FORBIDDEN & names_in("def reward(report):\n    return getattr(report, 'dependence')\n")


def test_the_formula_imports_nothing_of_the_messages():
    source = Path(esper_async.simic.reward.__file__).read_text()
    imported = {
        node.module for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)
    }
    assert imported == {"dataclasses", "esper_async.simic.evidence"}


def germinated(*reports: FieldReport) -> Evidence:
    planted = decision("a", 1)
    planted.command.seed.operation = SeedOperation.SEED_OPERATION_GERMINATE
    return evidence_of(planted, reports)


def test_the_reward_does_not_move_with_the_confounded_quantities():
    plain = report("a", 1)
    hostage = report("a", 1)
    hostage.dependence.CopyFrom(quantity(61.0))
    hostage.observed_change.loss = -5.0
    assert reward(germinated(plain)) == reward(germinated(hostage))


def test_doing_nothing_earns_exactly_zero():
    assert reward(Evidence()).total == 0.0


def test_what_was_not_measured_is_none_and_not_zero():
    terms = reward(Evidence())
    assert (terms.benefit, terms.rent, terms.terminal) == (None, None, None)


def test_an_estimated_benefit_is_not_measured():
    message = report("a", 1)
    message.benefit_vs_twin.CopyFrom(quantity(0.5, estimated=True))
    assert germinated(message).benefit is None


def test_an_effect_that_may_be_nothing_earns_nothing_and_harm_costs():
    assert reward(Evidence(kept=True, benefit=Measured(0.02, -0.01, 0.05))).benefit == 0.0
    good, bad = Measured(0.05, 0.04, 0.06), Measured(-0.05, -0.06, -0.04)
    assert reward(Evidence(kept=True, benefit=good)).benefit == pytest.approx(0.8)
    assert reward(Evidence(kept=True, benefit=bad)).benefit == pytest.approx(-0.8)


def test_a_removed_seed_brings_nothing_and_an_undecided_one_is_not_measured():
    good = Measured(0.05, 0.04, 0.06)
    assert reward(Evidence(kept=False, benefit=good)).benefit == 0.0
    assert reward(Evidence(kept=None, benefit=good)).benefit is None


def test_work_is_billed_whatever_came_of_it_and_parameters_only_where_they_stay():
    tried = reward(Evidence(kept=False, parameter_ratio=2.0, compute_boundaries=5.0))
    assert tried.rent == pytest.approx(-0.05)
    kept = reward(Evidence(kept=True, parameter_ratio=2.0, compute_boundaries=5.0))
    assert kept.rent == pytest.approx(-0.25)
    assert reward(Evidence(kept=False, parameter_ratio=2.0)).rent is None


def test_of_two_reports_about_a_command_only_the_newest_counts():
    older, newer = report("a", 1), report("a", 1, report_id="a-r1-again")
    newer.benefit_vs_twin.CopyFrom(quantity(0.2))
    assert germinated(older, newer) == germinated(newer)


def test_a_rollback_costs_and_undoes_the_benefit():
    aborted = report("a", 1, outcome=FieldReportOutcome.FIELD_REPORT_OUTCOME_ABORTED)
    aborted.stage = SeedLifecycleStage.SEED_LIFECYCLE_STAGE_FOSSILIZED
    terms = reward(germinated(aborted))
    assert (terms.benefit, terms.budget) == (None, -0.5)


def test_a_reward_of_another_version_is_refused():
    check_version(FORMULA_VERSION)
    with pytest.raises(RewardVersionError, match="version 1, and 2 is in use"):
        check_version(1)


def test_growing_for_nothing_pays_rent_and_planting_and_culling_pays_budget():
    held = Evidence(kept=True, benefit=Measured(0.0, -0.01, 0.01), parameter_ratio=2.0)
    assert reward(held).total < 0
    assert reward(Evidence(disruptions=1)).total < 0


def test_a_step_stays_within_ten():
    extreme = Evidence(
        benefit=Measured(1e9, 1e9, 1e9),
        parameter_ratio=0.0,
        kept=True,
        compute_boundaries=0.0,
        terminal_gain=1e9,
    )
    assert abs(reward(extreme).total) <= 10
    worst = Evidence(
        benefit=Measured(-1e9, -1e9, -1e9),
        parameter_ratio=1e9,
        kept=True,
        compute_boundaries=1e9,
        terminal_gain=-1e9,
        disruptions=99,
        rollbacks=99,
    )
    assert abs(reward(worst).total) <= 10


def test_not_a_number_raises_instead_of_slipping_past_the_caps():
    with pytest.raises(ValueError, match="NaN"):
        reward(Evidence(terminal_gain=float("nan")))


def test_the_formula_has_a_version():
    assert FORMULA_VERSION == 2
