"""Every example runs as it stands, only shorter, and grows."""

import importlib
from pathlib import Path
from typing import Any

import pytest
from transformers import ViTForImageClassification

from esper_async import Grower, load_grown
from esper_async.kasmina.kernels.graft import grafts_of
from esper_async.kasmina.stage import Stage
from tests.cli.conftest import ROOT
from tests.growth_hosts import differing
from tests.integrations.conftest import one_thread  # noqa: F401 - used by every test
from tests.tolaria.growth_tasks import QUICK

EXAMPLES = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))
SHORTER: dict[str, dict[str, Any]] = {
    "plain_loop": {"blueprints": ["BP014", "BP021"]},
    "lightning_callback": {"blueprints": ["BP014", "BP021"], "quiet": True},
    "huggingface_trainer": {"blueprints": ["BP014"], "sites": {"layer": "vit.layers.0"}},
    "pretrained": {"blueprints": ["BP014"], "sites": {"layer": "vit.layers.0"}},
}
pytestmark = [  # advice for larger runs than these, which depends on the machine
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:GPU available but not used"),
]


def run(name: str, **options: Any) -> tuple[Any, list[Stage]]:
    """Run an example; return what its `main` does, and the stages that its seeds reached."""
    reached: list[Stage] = []
    note = Grower._note

    def watch(self: Grower, seed: Any, source: Stage, target: Stage, gate: Any) -> None:
        reached.append(target)
        note(self, seed, source, target, gate)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Grower, "_note", watch)
        module = importlib.import_module(f"examples.{name}")
        quick = {"epochs": 9, "growth": QUICK, "state_dir": None, "seed": 1}
        return module.main(**quick, **SHORTER[name], **options), reached


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_grows_its_model(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    result, reached = run(name)
    assert {Stage.TRAINING, Stage.BLENDING, Stage.FOSSILIZED} <= set(reached)
    grower = result if isinstance(result, Grower) else result.grower
    assert grafts_of(grower.model)
    told = capsys.readouterr().out
    for seed in grower.executor.kept:
        assert f"{seed.parameter_count} more for {seed.candidate.blueprint}" in told
    assert "parameters before growth" in told


def test_what_has_grown_from_a_checkpoint_is_put_into_a_copy_of_it(tmp_path: Path) -> None:
    grower, _ = run("pretrained", folder=tmp_path)
    fresh = ViTForImageClassification.from_pretrained(tmp_path / "pretrained")
    assert differing(dict(fresh.state_dict()), dict(grower.model.state_dict())) != []
    load_grown(fresh, tmp_path / "grown.pt")
    assert differing(dict(fresh.state_dict()), dict(grower.model.state_dict())) == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_says_how_it_is_run(name: str) -> None:
    source = (ROOT / "examples" / f"{name}.py").read_text()
    assert f"`python examples/{name}.py`" in source.partition("\n")[0]
    assert source.endswith('if __name__ == "__main__":\n    main()\n')
