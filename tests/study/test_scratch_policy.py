"""A study that makes the policy of its `learned` arms from scratch, and what its plan may say."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from esper_async.runtime.strict_model import ConfigurationError
from esper_async.simic.learn import NothingToLearnError
from esper_async.study.cell import Cell
from esper_async.study.command import StudyResult, run_study
from esper_async.study.conduct import arm_content
from esper_async.study.ledger import Ledger
from esper_async.study.measured_plan import hash_of
from esper_async.study.plan import Setting, load_plan
from esper_async.tamiyo.shipped import shipped_document
from tests.study.test_collect import PLAN as COLLECTION
from tests.study.test_collect import SMALL

STUDY = f"""
name = "small"
question = "Does it run?"
decision = "It does if there are figures."
seeds = 2
first_seed = 5
resamples = 100

[learning]
collection = "collection.toml"
learner = "bandit"

[tuning]
rates = [0.01]

[tasks.small]
task = "{SMALL}:make_task"
epochs = 12

[arms.learned]
policy = "learned"
blueprints = ["BP014"]
[arms.learned.growth]
dwell_steps = 2
shadow_every = 1
parameter_budget = 50.0

[arms."random for longer"]
kind = "longer"
than = "learned"
policy = "random"
blueprints = ["BP014"]
[arms."random for longer".growth]
dwell_steps = 2
shadow_every = 1
parameter_budget = 50.0

[[comparisons]]
treated = "learned"
control = "random for longer"
"""


def write(folder: Path, study: str = STUDY, collection: str = COLLECTION) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "collection.toml").write_text(collection)
    path = folder / "study.toml"
    path.write_text(study)
    return path


def run(path: Path, root: Path) -> StudyResult:
    return run_study(path, root, workers=2, nice=0, tell=lambda _: None)


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, StudyResult]:
    folder = tmp_path_factory.mktemp("scratch")
    path = write(folder)
    return path, folder / "studies", run(path, folder / "studies")


def test_its_arms_decide_by_what_its_runs_taught(studied: tuple[Path, Path, StudyResult]) -> None:
    _, root, result = studied
    assert result.findings.failures == {}
    assert result.taught is not None
    document = json.loads((result.folder / "learned.json").read_bytes())
    assert document == result.taught.document
    assert document["kind"] == "bandit"
    assert not result.taught.is_shipped
    assert "another than the policy that comes along" in result.taught.words
    plan = result.findings.plan
    ledger = Ledger(root / "cells", result.findings.code)
    for seed in plan.seeds_of_runs:
        cell = Cell(
            task_name="small",
            arm_name="learned",
            task=plan.tasks["small"].model_dump(mode="json"),
            arm=arm_content(plan.arms["learned"], document),
            primary=plan.primary,
            setting=Setting(0.01),
            seed=seed,
            tunes=False,
        )
        assert ledger.read(cell) == result.findings.runs["small", "learned", seed]
        shipped = arm_content(plan.arms["learned"], shipped_document())
        assert ledger.read(replace(cell, arm=shipped)) is None


def test_a_policy_that_grows_for_longer_plants_for_longer(
    studied: tuple[Path, Path, StudyResult],
) -> None:
    _, _, result = studied
    learned = [each for each in result.findings.of("small", "learned") if each is not None]
    longer = [each for each in result.findings.of("small", "random for longer") if each is not None]
    assert len(learned) == len(longer) == 2
    for one, other in zip(learned, longer, strict=True):
        assert other.epochs > one.epochs
        assert other.total_macs >= 0.9 * one.total_macs
        assert other.planted


def test_made_again_it_is_the_same_and_nothing_is_run(
    studied: tuple[Path, Path, StudyResult],
) -> None:
    path, root, result = studied
    again = run(path, root)
    assert again.ran == 0
    assert again.taught == result.taught


def test_runs_that_planted_nothing_teach_nothing(tmp_path: Path) -> None:
    path = write(tmp_path, collection=COLLECTION.replace("epochs = 16", "epochs = 1"))
    with pytest.raises(NothingToLearnError, match="nothing to learn from"):
        run(path, tmp_path / "studies")


def test_a_collection_may_stand_in_the_study_itself(tmp_path: Path) -> None:
    inline = COLLECTION.replace("\n[", "\n[learning.collection.")
    inline = inline.replace('\nname = "small"\n', '\n[learning.collection]\nname = "small"\n')
    whole = STUDY.replace('collection = "collection.toml"\nlearner', "learner")
    path = write(tmp_path / "whole", whole.replace("[tuning]", f"{inline}\n[tuning]"))
    assert load_plan(path) == load_plan(write(tmp_path / "apart"))


@pytest.mark.parametrize(
    ("study", "collection", "said"),
    [
        (STUDY.replace("first_seed = 5", "first_seed = 43"), COLLECTION, "cannot judge"),
        (STUDY.replace('policy = "learned"', 'policy = "random"'), COLLECTION, "no arm has it"),
        (STUDY, COLLECTION.replace("runs = 2", "runs = 0"), "runs"),
        (STUDY.replace('"collection.toml"', '"other.toml"'), COLLECTION, "cannot be read"),
    ],
    ids=["a seed that teaches judges", "nobody learned", "a wrong collection", "no collection"],
)
def test_a_wrong_plan_is_refused(tmp_path: Path, study: str, collection: str, said: str) -> None:
    path = write(tmp_path, study, collection)
    with pytest.raises(ConfigurationError, match=said):
        run(path, tmp_path / "studies")
    assert not (tmp_path / "studies").exists()


def test_what_a_plan_does_not_say_is_no_part_of_its_hash(tmp_path: Path) -> None:
    learning = STUDY[STUDY.index("[learning]") : STUDY.index("[tuning]")]
    with_it = load_plan(write(tmp_path))
    without = load_plan(write(tmp_path, STUDY.replace(learning, "")))
    assert without.hash != with_it.hash == hash_of(with_it)
    assert without.hash == hash_of(without, exclude=["learning"])
