"""The gallery of blueprints shows the catalogue and what was measured, and is not stale."""

import json
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

from docs import blueprint_gallery
from esper_async.karn.catalogue import Catalogue
from esper_async.karn.record import TIERS
from esper_async.kasmina.catalogue import REFERENCE_SITES
from esper_async.kasmina.kernels import REGISTRY
from esper_async.kasmina.proof import prove


def test_the_gallery_is_not_stale() -> None:
    """Mend it with `python docs/blueprint_gallery.py`."""
    assert blueprint_gallery.PAGE.read_text() == blueprint_gallery.page()


def test_all_fifty_are_shown_with_a_measured_time_wherever_they_fit() -> None:
    page, times = blueprint_gallery.page(), json.loads(blueprint_gallery.COSTS.read_text())
    for record in Catalogue().records:
        assert f"**{record.id} {record.name}**" in page
        assert set(times["training_ms"][record.id]) == {at.kind for at, _ in record.costs}


def test_contributions_and_families_that_never_help_are_shown_once_they_are_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [
        {"figure": "mnist1d: BP009 residual_block", "value": 0.3, "interval": [0.2, 0.4]},
        {"figure": "families that never helped", "value": 2, "note": "regularising, planted"},
    ]
    figures = tmp_path / "usefulness.json"
    figures.write_text(json.dumps({"benchmarks": [{"name": "usefulness", "rows": rows}]}))
    monkeypatch.setattr(blueprint_gallery, "USEFULNESS", figures)
    page = blueprint_gallery.page()
    assert "any of the three tasks: regularising, planted." in page
    (line,) = (line for line in page.splitlines() if line.startswith("| BP009 |"))
    assert line.endswith("| +0.300 [+0.200, +0.400] | - | - |")


def test_the_blueprint_of_the_guide_is_one_file_and_can_be_proved(tmp_path: Path) -> None:
    text = (blueprint_gallery.HERE / "blueprints.md").read_text()
    (program,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (tmp_path / "bounded_change.py").write_text(program)
    spec = spec_from_file_location("bounded_change", tmp_path / "bounded_change.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["bounded_change"] = module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        for site in REFERENCE_SITES:
            assert prove("BP101", site).failures == ()
    finally:
        del sys.modules["bounded_change"]
        REGISTRY.pop("BP101", None)


def test_the_guide_tells_of_every_tier() -> None:
    text = (blueprint_gallery.HERE / "blueprints.md").read_text()
    for tier in TIERS:
        assert f"| {tier} |" in text
