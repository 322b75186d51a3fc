"""Training or evaluation mode for a block, with every module's own mode restored after it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def evaluation_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put modules into evaluation mode, and each submodule back into its own mode on exit."""
    with _mode(modules, training=False):
        yield


@contextmanager
def training_mode(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Put modules into training mode, and each submodule back into its own mode on exit."""
    with _mode(modules, training=True):
        yield


@contextmanager
def _mode(modules: Iterable[nn.Module], *, training: bool) -> Iterator[None]:
    before = [(part, part.training) for module in modules for part in module.modules()]
    for part, _ in before:
        part.training = training
    try:
        yield
    finally:
        for part, was in before:
            part.training = was
