import xml.etree.ElementTree as ET

import pytest

from models.analysis.charts import Series, heat_map, line_chart


def parsed(chart):
    """A chart with its legend, as XML."""
    return ET.fromstring(f"<div>{chart}</div>")  # noqa: S314 our own


def draw(*series, **options):
    return parsed(line_chart([Series(*each) for each in series], x_label="x", y_label="y", title="t", **options))


def points_of(chart):
    return [
        [tuple(map(float, point.split(","))) for point in line.get("points").split()] for line in chart.iter("polyline")
    ]


def test_higher_values_are_drawn_higher_and_later_ones_further_right():
    ((first, second),) = points_of(draw(("a", [(0, 1.0), (1, 5.0)])))
    assert first[0] < second[0]
    assert first[1] > second[1]


def test_a_logarithm_spaces_factors_evenly():
    ((a, b, c),) = points_of(draw(("a", [(1, 1.0), (10, 100.0), (100, 10000.0)]), log_x=True, log_y=True))
    assert b[0] - a[0] == pytest.approx(c[0] - b[0], abs=0.2)
    assert b[1] - a[1] == pytest.approx(c[1] - b[1], abs=0.2)


def test_a_logarithm_leaves_out_what_it_cannot_show():
    ((_,),) = points_of(draw(("a", [(1, 3.0), (2, 0.0)]), log_y=True))


@pytest.mark.parametrize("points", [[(0, 2.0)], [(0, 2.0), (1, 2.0)], [(3, -1e-9), (3, 1e9)]])
@pytest.mark.parametrize("log", [False, True])
def test_odd_values_are_drawn_all_the_same(points, log):
    draw(("a", points), log_y=log)


def test_nothing_is_said_to_be_nothing():
    assert "Nothing to draw" in line_chart([], x_label="", y_label="", title="")


def test_labels_are_text_whatever_they_hold():
    chart = draw(("<b>&", [(0, 1.0), (1, 2.0)]))
    assert "<b>&" in "".join(chart.itertext())


def test_a_heat_map_is_shaded_from_lowest_to_highest():
    table = parsed(heat_map(["<1>", "2"], ["x", "y"], [[1.0, 3.0], [2.0, 1.0]]))
    shades = [cell.get("style") for cell in table.iter("td") if cell.get("style")]
    assert ["--v:0.000", "--v:1.000", "--v:0.500", "--v:0.000"] == shades
