"""Charts are well-formed SVG that says what it draws, whatever it is given."""

import math
from xml.etree import ElementTree

from hypothesis import given
from hypothesis import strategies as st

from esper_async.study.charts import (
    COLOURS,
    Bar,
    Dot,
    Line,
    dot_chart,
    frontier_of,
    line_chart,
    timeline,
)

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


def test_many_names_have_room_and_a_colour_that_comes_again_looks_another_way():
    lines = [Line(f"arm {number}", [(0, number), (1, number)]) for number in range(24)]
    text = line_chart(lines, x_label="x", y_label="y")
    _, _, _, height = map(float, str(parsed(text).get("viewBox")).split())
    assert height > 16 + 18 * 24
    drawn = [each.split("/>")[0] for each in text.split("<path ") if 'stroke-width="2"' in each]
    assert len({each[each.index("stroke=") :] for each in drawn[: 2 * len(COLOURS)]}) == 20


def test_the_frontier_holds_what_none_of_less_compute_betters():
    dots = [Dot(name, x, y, y, y) for name, x, y in
            [("d", 4, 3), ("a", 1, 1), ("c", 3, 0), ("b", 2, 2), ("b worse", 2, 1.5)]]  # fmt: skip
    assert [dot.name for dot in frontier_of(dots, lowest=False)] == ["a", "b", "d"]
    assert [dot.name for dot in frontier_of(dots, lowest=True)] == ["a", "c"]
    text = dot_chart(dots, x_label="x", y_label="y", frontier="highest")
    assert text.count('class="frontier"') == 1
    parsed(text)
