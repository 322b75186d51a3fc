"""A collection from its plan to the store: drawn, kept, resumed, and made once."""

import math
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from esper_async.runtime.strict_model import ConfigurationError
from esper_async.simic import ExperienceStore, Intake, Query
from esper_async.simic.draws import draw_of
from esper_async.simic.lessons import lessons_from
from esper_async.study.collect.gathering import Collected, collect, collected_cells
from esper_async.study.collect.haul import CollectedLedger
from esper_async.study.collect.plan import load_collection
from esper_async.study.ledger import code_fingerprint

SMALL = Path(__file__).parent / "small_task.py"
SHIPPED = Path(__file__).parents[2] / "config" / "collections"
PLAN = f"""
name = "small"
runs = 2
first_seed = 44
blueprints = ["BP002", "BP014"]
[growth]
dwell_steps = 2
ramp_boundaries = 1
window_boundaries = 1
shadow_every = 1
parameter_budget = 50.0
[tasks.small]
task = "{SMALL}:make_task"
epochs = 16
"""


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "collection.toml"
    path.write_text(PLAN)
    return path


def gather(plan: Path, state_dir: Path) -> Collected:
    return collect(plan, state_dir, workers=1, nice=0, tell=lambda line: None)


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path, Collected]]:
    folder = tmp_path_factory.mktemp("collected")
    path = folder / "collection.toml"
    path.write_text(PLAN)
    yield path, folder / "state", gather(path, folder / "state")


def test_what_was_drawn_is_in_the_store_with_everything_that_was_offered(
    collected: tuple[Path, Path, Collected],
) -> None:
    _, state, done = collected
    assert (done.ran, done.known, done.failures) == (4, 0, {})
    assert done.stored[Intake.REJECTED] == 0
    with closing(ExperienceStore.of(state)) as store:
        assert len(store.runs()) == 2
        planted = [each for _, each in store.experiences(Query(operation="GERMINATE"))]
        assert {each.step.decision.policy for each in planted} == {"random"}
        for each in planted:
            draw = draw_of(each.step.decision)
            assert draw is not None
            assert draw.propensity == pytest.approx(1.0 / len(draw.offer))
            assert math.exp(each.step.decision.log_probability) == pytest.approx(draw.propensity)
        lessons = lessons_from(each for each in planted if each.step.reports)
        assert len(lessons) >= 2
        gains = [store.terminal_gain(run) for run in store.runs()]
        assert all(gain is not None and math.isfinite(gain) for gain in gains)


def test_a_collection_that_is_made_again_makes_and_stores_nothing(
    collected: tuple[Path, Path, Collected],
) -> None:
    path, state, first = collected
    again = gather(path, state)
    assert (again.ran, again.known) == (0, 4)
    assert again.stored == {Intake.DUPLICATE: first.stored[Intake.STORED]}


def test_a_lost_store_is_filled_again_from_the_runs_that_were_made(
    collected: tuple[Path, Path, Collected], tmp_path: Path
) -> None:
    path, state, first = collected
    (tmp_path / "collections").symlink_to(state / "collections")
    again = gather(path, tmp_path)
    assert (again.ran, again.known) == (0, 4)
    assert again.stored == {Intake.STORED: first.stored[Intake.STORED]}


def test_a_run_whose_experience_was_lost_is_not_known(
    collected: tuple[Path, Path, Collected], tmp_path: Path
) -> None:
    path, state, _ = collected
    cell = collected_cells(load_collection(path), {})[0]
    there = CollectedLedger(state / "collections" / "cells", code_fingerprint())
    result = there.read(cell)
    assert result is not None
    elsewhere = CollectedLedger(tmp_path, code_fingerprint())
    elsewhere.write(cell, result)
    assert elsewhere.read(cell) is None
    elsewhere.write_haul(cell, [])
    assert elsewhere.read(cell) == result


def test_a_second_round_is_collected_under_what_was_learned(tmp_path: Path) -> None:
    path = tmp_path / "collection.toml"
    path.write_text(f'policies = ["random", "learned"]\n{PLAN}')
    document = {"kind": "awr", "weights": [[1.0]], "lineage": {"data": "d"}}
    cells = collected_cells(load_collection(path), document)
    told = [(cell.arm_name, cell.arm.get("learned")) for cell in cells[:2]]
    assert told == [("random", None), ("learned", {"kind": "awr", "weights": [[1.0]]})]


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_a_shipped_plan_can_be_read_and_takes_no_seed_that_judges(path: Path) -> None:
    plan = load_collection(path)
    assert not set(plan.seeds) & set(range(20, 50))


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("runs = 2", 'runs = 2\npolicies = ["heuristic"]', "'heuristic' has no probabilities"),
        ("runs = 2", 'runs = 2\npolicies = ["rndom"]', "'rndom' is unknown"),
        ("runs = 2", 'runs = 2\npolicies = ["random", "random"]', "named twice"),
        ("runs = 2", "runs = 0", "runs"),
        ("first_seed", "first_sed", "first_seed"),
        ("small_task.py", "no_task.py", "there is no file"),
    ],
)
def test_a_wrong_plan_is_refused_before_anything_runs(
    plan: Path, tmp_path: Path, old: str, new: str, told: str
) -> None:
    plan.write_text(plan.read_text().replace(old, new))
    with pytest.raises(ConfigurationError, match=told):
        gather(plan, tmp_path / "state")
    assert not (tmp_path / "state").exists()


def test_a_run_that_fails_is_named_and_the_others_are_stored(plan: Path, tmp_path: Path) -> None:
    text = plan.read_text().replace(":make_task", ":make_broken").replace("44", "0")
    plan.write_text(text.replace("epochs = 16", "epochs = 6"))
    done = gather(plan, tmp_path / "state")
    assert len(done.failures) == 2
    assert all("seed 1 is broken" in why for why in done.failures.values())
    assert done.stored[Intake.STORED] > 0
