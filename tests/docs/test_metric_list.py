"""The list of metrics is the one that the program exposes."""

from docs import metric_list


def test_the_list_of_metrics_is_not_stale() -> None:
    """Mend it with `python docs/metric_list.py`."""
    assert metric_list.PAGE.read_text() == metric_list.page()
