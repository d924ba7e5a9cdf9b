from xml.etree import ElementTree

import pytest

from encoder.evaluation.plot import Line, plot

SVG = "{http://www.w3.org/2000/svg}"


def test_a_plot_is_well_formed_and_shows_every_point():
    drawn = plot(
        "A < B & C",
        ["1", "3", "all"],
        [Line("one", [50, 70, 90], [3, 2, 0]), Line("two", [40, 45, 60], [0, 0, 0])],
        "score",
    )

    root = ElementTree.fromstring(drawn)
    assert len(root.findall(f"{SVG}circle")) == 6
    assert len(root.findall(f"{SVG}polyline")) == 2
    texts = [text.text for text in root.findall(f"{SVG}text")]
    assert {"A < B & C", "one", "two", "1", "3", "all"} <= set(texts)


def test_higher_values_stand_higher():
    drawn = ElementTree.fromstring(plot("t", ["a", "b"], [Line("l", [10, 90], [0, 0])], "y"))

    first, second = drawn.findall(f"{SVG}circle")

    assert float(second.get("cy")) < float(first.get("cy"))


def test_the_same_numbers_give_the_same_bytes():
    lines = [Line("l", [1, 1], [0, 0])]  # a flat line still has a range

    assert plot("t", ["a", "b"], lines, "y") == plot("t", ["a", "b"], lines, "y")


def test_a_line_with_too_few_points_is_refused():
    with pytest.raises(ValueError, match="'l' has not 2 points"):
        plot("t", ["a", "b"], [Line("l", [1], [0])], "y")
