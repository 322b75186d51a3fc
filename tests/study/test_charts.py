"""Charts are well-formed SVG that says what it draws, whatever it is given."""

import math
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from esper_async.study.charts import Bar, Dot, Line, dot_chart, line_chart, timeline

NUMBER = st.floats(-1e12, 1e12)


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)


@given(st.lists(st.tuples(NUMBER, NUMBER), min_size=1, max_size=20), st.text(max_size=20))
def test_any_line_is_drawn_inside_its_frame(points, name):
    text = line_chart(
        [Line("".join(filter(str.isprintable, name)), points)], x_label="x", y_label="y<"
    )
    root = parsed(text)
    assert root.get("viewBox") == "0 0 640 340"
    assert "nan" not in text
    assert "inf" not in text


def test_a_band_needs_a_pair_for_each_point():
    text = line_chart(
        [Line("a", [(0, 1), (1, 2)], [(0.5, 1.5), (1.5, 2.5)])], x_label="x", y_label="y"
    )
    assert 'opacity="0.15"' in text
    parsed(text)


def test_what_was_not_measured_is_not_drawn():
    dots = [Dot("a", 10, 1, 0.5, 1.5), Dot("b", 100, math.nan, math.nan, math.nan)]
    text = dot_chart(dots, x_label="x", y_label="y", log_x=True)
    assert text.count("<circle") == 1
    assert "Nothing was measured" in dot_chart(dots[1:], x_label="x", y_label="y")
    assert "Nothing was measured" in line_chart([], x_label="x", y_label="y")


def test_names_are_escaped():
    text = timeline(["<b>"], [Bar(0, 1, 5, "#fff", "a & b")], x_label="boundary", end=10)
    assert "&lt;b&gt;" in text
    assert "a &amp; b" in text
    parsed(text)
