"""Run files: every default stands, and what is wrong is named with its way out."""

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from esper_async.kasmina.options import GrowthOptions
from esper_async.runtime.strict_model import ConfigurationError
from esper_async.tolaria.run_file import GrowthSection, find_run, load_run, parse_run, shipped_runs


def test_the_growth_section_has_the_executors_own_options_and_defaults() -> None:
    of_the_executor = {f.name: f.default for f in dataclasses.fields(GrowthOptions)}
    assert of_the_executor.pop("drill") is False, "a drill is not for a run file to ask for"
    section = GrowthSection().model_dump()
    assert section.pop("policy") == "heuristic"
    assert section.pop("sites") == "auto"
    assert section.pop("triggers") == ()
    assert section == of_the_executor


def test_the_example_of_the_interface_is_read(tmp_path: Path) -> None:
    (tmp_path / "my-run.toml").write_text(
        """
[run]
task = "train.py:make_task"
epochs = 30
seed = 7
boundary_every = 500
[run.options]
width = 16
[growth]
policy = "random"
sites = {early = "layers.0"}
"""
    )
    (tmp_path / "train.py").write_text("def make_task(width): ...")
    run_file = load_run(str(tmp_path / "my-run.toml"))
    assert run_file.run.name == "my-run"
    assert run_file.run.task == f"{tmp_path / 'train.py'}:make_task"
    assert run_file.run.options == {"width": 16}
    assert run_file.run.boundary_every == 500
    assert run_file.growth.sites == {"early": "layers.0"}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        ({"run": {"task": "a:b", "epoch": 3}}, "'run.epoch'; did you mean 'run.epochs'"),
        ({"run": {"task": "a:b"}, "grwth": {}}, "'grwth'; did you mean 'growth'"),
        ({"run": {"task": "a:b"}, "growth": {"polcy": "random"}}, "did you mean 'growth.policy'"),
        ({"run": {}}, "run.task is required"),
        ({"run": {"task": "a:b", "epochs": 0}}, "run.epochs = 0"),
        ({"run": {"task": "nocolon"}}, "package.module:callable"),
        ({"run": {"task": "gone.py:make"}}, "there is no file"),
        ({"run": {"task": "a:b", "device": "gpu"}}, "run.device = 'gpu'"),
        ({"run": {"task": "a:b"}, "growth": {"policy": "best"}}, "'heuristic'"),
        ({"run": {"task": "a:b"}, "growth": {"tiers": ["adversarial"]}}, "refused for any live"),
        ({"run": {"task": "a:b"}, "growth": {"g4_margin": float("nan")}}, "finite"),
        ({"run": 3}, "run"),
    ],
)
def test_what_is_wrong_is_named(document: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError) as error:
        parse_run(document, base=tmp_path)
    assert words in str(error.value)


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigurationError) as error:
        parse_run({"run": {"task": "a:b", "epochs": -1, "sed": 1}})
    assert len(error.value.problems) == 2


def test_a_missing_file_and_broken_toml_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"there is no file .*gone\.toml"):
        find_run(str(tmp_path / "gone.toml"))
    (tmp_path / "bad.toml").write_text("[run\n")
    with pytest.raises(ConfigurationError, match="not valid TOML"):
        load_run(str(tmp_path / "bad.toml"))


def test_an_unknown_name_lists_what_there_is() -> None:
    with pytest.raises(ConfigurationError, match="neither a file here nor a run that comes"):
        find_run("zzzzzz")


def test_every_shipped_run_file_is_right() -> None:
    assert "digits" in shipped_runs()
    for name in shipped_runs():
        assert load_run(name).run.name == name


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.sampled_from(["run", "growth", "x"]), json_values))
def test_no_document_gets_past_the_check_as_a_crash(document: dict[str, object]) -> None:
    try:
        parse_run(document)
    except ConfigurationError as error:
        assert error.problems
