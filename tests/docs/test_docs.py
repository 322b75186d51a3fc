"""The pages say what is so: commands parse, links lead somewhere, defaults are the defaults."""

import json
import re
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import typer.main

from esper_async.cli.main import app
from esper_async.karn.catalogue import Catalogue
from esper_async.karn.record import TIERS
from esper_async.tamiyo.shipped import SHIPPED_SHA256, shipped_document
from esper_async.tolaria.run_file import GrowthSection, parse_run
from tests.cli.conftest import ROOT

PAGES = [*sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("*.md"))]


def commands(page: Path) -> list[str]:
    found = re.findall(r"```console\n(.*?)```", page.read_text(), re.DOTALL)
    lines = "".join(found).splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.strip()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists_and_takes_what_it_is_given(page: Path) -> None:
    for line in commands(page):
        program, *arguments = line.split()
        assert (ROOT / program).is_file(), line
        if program == "bin/esper-supervisor":
            parse(typer.main.get_command(app), arguments)


def parse(command: Any, arguments: list[str]) -> None:
    """Parse as the command line would, down to the last subcommand; run nothing."""
    context = command.make_context("esper-supervisor", list(arguments))
    rest = [*context._protected_args, *context.args] if hasattr(command, "commands") else []
    if rest:
        name, inner, further = command.resolve_command(context, rest)
        assert inner is not None, name
        parse(inner, further)


def test_a_command_that_does_not_exist_would_be_noticed() -> None:
    with pytest.raises(Exception, match="--no-such-flag"):
        parse(typer.main.get_command(app), ["up", "--no-such-flag"])
    with pytest.raises(Exception, match="No such command"):
        parse(typer.main.get_command(app), ["runs", "eat", "r-1"])


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def test_the_growth_table_has_the_defaults() -> None:
    text = (ROOT / "docs" / "growing-your-own-model.md").read_text()
    table = text[text.index("`[growth]` also takes") :]
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", table, re.MULTILINE)
    assert len(rows) >= 10
    defaults = GrowthSection().model_dump()
    for key, shown in rows:
        value = defaults[key]
        value = list(value) if isinstance(value, tuple) else value  # as TOML has it
        expected = str(value).lower() if isinstance(value, bool) else str(value)
        assert shown == expected, key


def test_the_run_file_of_the_guide_is_accepted(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "growing-your-own-model.md").read_text()
    (whole,) = (b for b in re.findall(r"```toml\n(.*?)```", text, re.DOTALL) if "[run]" in b)
    (tmp_path / "my_net.py").write_text("")
    parse_run(tomllib.loads(whole), base=tmp_path)


def test_the_count_of_blueprints_is_the_catalogues() -> None:
    tiers = Counter(record.tier for record in Catalogue().records)
    text = (ROOT / "docs" / "how-it-works.md").read_text()
    for tier in TIERS:
        assert f"{tiers[tier]} {tier}" in text


def test_every_runtime_dependency_is_explained() -> None:
    page = (ROOT / "docs" / "dependencies.md").read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for requirement in project["dependencies"]:
        name = re.split(r"[\s\[<>=;!~]", requirement)[0]
        assert re.search(rf"\b{re.escape(name)}\b", page), name


def test_the_card_of_the_shipped_policy_is_that_of_its_file() -> None:
    card = (ROOT / "docs" / "shipped-policy.md").read_text()
    told = json.loads((ROOT / "docs" / "shipped-policy.json").read_text())
    document = shipped_document()
    assert SHIPPED_SHA256 in card
    assert (told["sha256"], told["kind"]) == (SHIPPED_SHA256, document["kind"])
    assert told["lineage"]["data"] == document["lineage"]["data"]
    for answer in (each for study in told["studies"] for each in study["answers"]):
        value = f"{answer['difference']['value']:+.1f}"
        asked = f"| {answer['task']} | {answer['treated']} over {answer['control']} | {value} ["
        assert asked in card
