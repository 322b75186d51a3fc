"""How an event is judged: the rise after it, against what a static host does at that age."""

import dataclasses

import pytest

from esper_async.study.bench.benchmark import Effort, Verdict
from esper_async.study.bench.cases import disruption
from esper_async.study.bench.disruption_runs import Event, Plan, Recipe, Watched

RECIPE = Recipe("constant", 0.01, 10, boundary_steps=64)


def run(validation: list[float], *events: Event) -> Watched:
    calm = [1.0] * len(validation)
    return Watched(list(events), validation, calm, calm, calm)


def rows(monkeypatch: pytest.MonkeyPatch, seen: dict[Plan, Watched]) -> dict[str, Verdict]:
    monkeypatch.setattr(disruption, "run_all", lambda *_: seen)
    return {row.figure: row.verdict for row in disruption.measure(Effort.FULL) if row.bar}


def static(*validation: float) -> dict[Plan, Watched]:
    return {Plan("static", seed, RECIPE): run(list(validation)) for seed in (1, 2)}


def blended(*after: float) -> dict[Plan, Watched]:
    found = run([1.0, 1.0, 1.0, *after, 1.0, 1.0], Event("blend", 3, None))
    return {Plan("random", 3, RECIPE): found}


CALM = static(*[1.0, 1.01] * 5)


@pytest.mark.parametrize(
    ("after", "verdict"),
    [
        ((1.01, 1.0, 0.9), Verdict.PASS),
        ((0.9, 0.8, 0.7), Verdict.PASS),
        ((0.9, 1.02, 0.7), Verdict.MISS),
    ],
)
def test_any_of_the_three_boundaries_after_it_may_betray_an_event(monkeypatch, after, verdict):
    found = rows(monkeypatch, CALM | blended(*after))
    assert found["blend: within the noise"] is verdict


def test_a_boundary_past_those_three_says_nothing_of_an_event(monkeypatch):
    assert rows(monkeypatch, CALM | blended(1.0, 1.0, 1.0, 5.0))["blend: within the noise"] is (
        Verdict.PASS
    )


def test_what_a_static_host_does_at_another_age_is_no_excuse(monkeypatch):
    wild_later = static(1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 2.0, 1.0)
    assert rows(monkeypatch, wild_later | blended(1.1))["blend: within the noise"] is Verdict.MISS


def test_what_did_not_happen_is_no_pass(monkeypatch):
    found = rows(monkeypatch, CALM)
    assert set(found.values()) == {Verdict.MISS}


def test_an_event_that_changes_the_network_at_once_is_one_too_many(monkeypatch):
    def germinated(*changed: bool) -> Verdict:
        events = [Event("germination", 3 + number, each) for number, each in enumerate(changed)]
        runs = CALM | {Plan("random", 3, RECIPE): run([1.0] * 10, *events)}
        return rows(monkeypatch, runs)["germination: network changed at once"]

    assert germinated(False, False) is Verdict.PASS
    assert germinated(False, True) is Verdict.MISS


def test_a_waived_gate_s_events_are_not_growths(monkeypatch):
    """Noise that is waved through to its trial disturbs; no run would have blended it."""
    noise = {Plan("noise", 3, RECIPE): run([1.0, 1.0, 1.0, 9.0, 9.0, 9.0], Event("blend", 3, None))}
    assert rows(monkeypatch, CALM | blended(1.0) | noise)["blend: within the noise"] is Verdict.PASS


def test_a_run_that_is_restless_anyway_is_told_apart_from_one_that_is_disturbed(monkeypatch):
    def own(*validation: float) -> float:
        fine = dataclasses.replace(RECIPE, boundary_steps=16)
        calm = {Plan("static", 1, fine): run([1.0, 1.01] * 5)}
        seen = calm | {Plan("random", 3, fine): run(list(validation), Event("blend", 5, None))}
        monkeypatch.setattr(disruption, "run_all", lambda *_: seen)
        found = {row.figure: row.value for row in disruption.measure(Effort.FULL)}
        return found["blend: within the run's own noise"]

    restless = (1.0, 1.4, 1.0, 1.4, 1.0, 1.4, 1.0, 1.4, 1.0, 1.4)
    assert own(*restless) == 1.0
    assert own(1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0) == 0.0
