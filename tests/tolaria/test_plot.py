"""The picture of a run that `result.plot()` draws."""

import sys

import pytest

from esper_async.tolaria.plot import plot_history

HISTORY = [
    {"boundary": 1, "training_loss": 2.0, "validation_loss": 2.1},
    {"boundary": 2, "training_loss": 1.5, "validation_loss": 1.7},
    {"boundary": 3, "training_loss": 1.0},
]
CHANGES = [
    {"boundary": 1, "to_stage": "TRAINING", "blueprint": "BP009"},
    {"boundary": 2, "to_stage": "BLENDING", "blueprint": "BP009"},
    {"boundary": 3, "to_stage": "FOSSILIZED", "blueprint": "BP009"},
]


def test_losses_are_drawn_over_boundaries_and_a_seed_where_it_blended_and_was_kept() -> None:
    (axes,) = plot_history(HISTORY, CHANGES).axes
    training, validation, *marks = axes.get_lines()
    assert list(training.get_xdata()) == [1, 2, 3]
    assert list(training.get_ydata()) == [2.0, 1.5, 1.0]
    assert list(validation.get_ydata())[:2] == [2.1, 1.7]
    assert [mark.get_xdata()[0] for mark in marks] == [2, 3]
    assert [text.get_text() for text in axes.texts] == ["BP009 blending", "BP009 fossilized"]


def test_a_loss_that_was_not_measured_leaves_a_gap_and_is_never_zero() -> None:
    (axes,) = plot_history(HISTORY, ()).axes
    last = axes.get_lines()[1].get_ydata()[-1]
    assert last != last


def test_without_matplotlib_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"esper-async\[plot\]"):
        plot_history(HISTORY, CHANGES)
