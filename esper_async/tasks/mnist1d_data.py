"""MNIST-1D as its package generates it, without importing the package.

`import mnist1d` loads matplotlib's plotting and requests, seconds and tens of megabytes that a
training process has no use for. Its `transform` module, which does all the random work, is loaded
from the installed distribution by path; the ten templates and the loop around it are restated
here. A test holds the result bitwise equal to `mnist1d.data.make_dataset()`.

Greydanus and Kobak, "Scaling down deep learning with MNIST-1D", arXiv 2011.14439.
"""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import Distribution
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from esper_async.tasks.extras import MissingDataError, require_distribution

CLASSES = 10
LENGTH = 40
TRAIN_COUNT = 4000
TEST_COUNT = 1000
_SEED = 42
_SETTINGS = SimpleNamespace(
    template_len=12,
    padding=[36, 60],
    scale_coeff=0.4,
    max_translation=48,
    corr_noise_scale=0.25,
    iid_noise_scale=2e-2,
    shear_scale=0.75,
    final_seq_length=LENGTH,
)
_TEMPLATES = (
    (5, 6, 6.5, 6.75, 7, 7, 7, 7, 6.75, 6.5, 6, 5),
    (5, 3, 3, 3.4, 3.8, 4.2, 4.6, 5, 5.4, 5.8, 5, 5),
    (5, 6, 6.5, 6.5, 6, 5.25, 4.75, 4, 3.5, 3.5, 4, 5),
    (5, 6, 6.5, 6.5, 6, 5, 5, 6, 6.5, 6.5, 6, 5),
    (5, 4.4, 3.8, 3.2, 2.6, 2.6, 5, 5, 5, 5, 5, 5),
    (5, 3, 3, 3, 3, 5, 6, 6.5, 6.5, 6, 4.5, 5),
    (5, 4, 3.5, 3.25, 3, 3, 3, 3, 3.25, 3.5, 4, 5),
    (5, 7, 7, 6.6, 6.2, 5.8, 5.4, 5, 4.6, 4.2, 5, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 4, 3.5, 3.5, 4, 5),
    (5, 4, 3.5, 3.5, 4, 5, 5, 5, 5, 4.7, 4.3, 5),
)

Signals = NDArray[np.float64]
Labels = NDArray[np.int64]


class Mnist1d(NamedTuple):
    """The package's own training and test parts; signals are (N, 40)."""

    train_signals: Signals
    train_labels: Labels
    test_signals: Signals
    test_labels: Labels


@cache
def load_mnist1d() -> Mnist1d:
    """Generate the standard data set (about a second, the same bits every time), read-only.

    Raises:
        MissingExtraError: the `mnist1d` package is not installed.
        MissingDataError: it is installed without its generator.
    """
    transform = _load_transform(require_distribution("mnist1d", task="mnist1d"))
    templates, times = _whitened_templates()
    with _legacy_random_state(_SEED):
        drawn = [
            transform(template, times, _SETTINGS)[0]
            for template in templates
            for _ in range((TRAIN_COUNT + TEST_COUNT) // CLASSES)
        ]
        order = np.random.permutation(len(drawn))
    signals = np.stack(drawn)[order]
    labels = np.repeat(np.arange(CLASSES), len(drawn) // CLASSES)[order]
    signals = (signals - signals.mean()) / signals.std()
    for array in (signals, labels):
        array.setflags(write=False)
    return Mnist1d(
        signals[:TRAIN_COUNT], labels[:TRAIN_COUNT], signals[TRAIN_COUNT:], labels[TRAIN_COUNT:]
    )


def _whitened_templates() -> tuple[Signals, Signals]:
    """Return the templates (10, 12), starting at 0 with unit deviation / 6, and their times."""
    templates = np.asarray(_TEMPLATES, dtype=np.float64)
    templates -= templates.mean(1, keepdims=True)
    templates /= templates.std(1, keepdims=True)
    templates -= templates[:, :1]
    return templates / 6.0, np.linspace(-5, 5, templates.shape[1]) / 6.0


def _load_transform(package: Distribution) -> Callable[..., Any]:
    path = Path(str(package.locate_file("mnist1d/transform.py")))
    spec = spec_from_file_location("mnist1d_transform", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise MissingDataError(f"the package mnist1d has no generator at {path}; reinstall it")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    transform: Callable[..., Any] = module.transform
    return transform


@contextmanager
def _legacy_random_state(seed: int) -> Iterator[None]:
    """Seed the global streams the generator draws from, and put them back afterwards."""
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        np.random.seed(seed)
        random.seed(seed)
        yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
