"""The benchmarks' models of a user's own: written elsewhere, loaded as any user's, and growable."""

from pathlib import Path

import pytest

from esper_async.study.bench.own_models import OWN_MODELS
from esper_async.tolaria.grow import grow
from esper_async.tolaria.task_source import load_task


@pytest.mark.parametrize("name", OWN_MODELS)
def test_each_model_trains_from_a_file_of_its_own(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_model.py").write_text(OWN_MODELS[name])
    task = load_task(f"{tmp_path / 'own_model.py'}:make_task", {}, seed=0)
    result = grow(
        task, epochs=1, policy="heuristic", state_dir=None, blueprints=["BP001"], progress=False
    )
    assert len(result.history) == 1
