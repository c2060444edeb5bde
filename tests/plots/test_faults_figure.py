"""The figure of a run with faults: what worked in every round, and labels that stay on the page."""

from __future__ import annotations

import example_run
import numpy as np
import pytest

from fedunlearn.plots.faults import faults_over_rounds, shares

COLUMNS = {
    "round": [0.0, 1.0, 2.0], "active": [1.0, 0.5, 0.75], "links_up": [1.0, 0.25, 0.5], "sent": [10.0, 0.0, 4.0],
    "lost": [1.0, 0.0, 1.0], "late": [1.0, 0.0, 0.0],
}  # fmt: skip
TOTALS = {"active_mean": 0.75, "adoptions": 3, "contraction": 0.8, "sent": 14}


def test_shares_are_those_of_nodes_links_and_messages_on_time():
    found = shares(COLUMNS)
    assert list(found) == ["nodes taking part", "links that work", "messages on time"]
    np.testing.assert_array_equal(found["messages on time"], [0.8, np.nan, 0.75])
    np.testing.assert_array_equal(found["links that work"], COLUMNS["links_up"])


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"lost": [0.0] * 3, "late": [0.0] * 3}, ["nodes taking part", "links that work"]),
        ({"links_up": [1.0] * 3}, ["nodes taking part", "messages on time"]),
        ({"sent": [0.0] * 3}, ["nodes taking part"]),
    ],
)
def test_what_never_fails_is_not_drawn(changes, left):
    assert list(shares({**COLUMNS, **changes})) == left


@pytest.mark.parametrize("rows", [example_run.metrics(), []])
def test_every_label_lies_on_the_page(rows):
    figure = faults_over_rounds({"faults": {**TOTALS, "by_round": COLUMNS}}, rows)
    figure.canvas.draw()
    page = figure.bbox
    texts = [text for axes in figure.axes for text in axes.texts] + list(figure.texts)
    assert {"80%  nodes taking part", "75%  nodes taking part"} & {text.get_text() for text in texts}
    for text in texts:
        box = text.get_window_extent()
        assert page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1, text.get_text()
