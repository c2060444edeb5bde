"""The figures of an evaluation show its numbers; their looks were judged by eye."""

from __future__ import annotations

import example_evaluation as example
import networkx as nx
import numpy as np
import pytest
from test_figures import texts

from fedunlearn.plots.influence_map import influence_map
from fedunlearn.plots.reach import reach_by_hop, reach_over_rounds
from fedunlearn.plots.relearning import reached, relearning_curves
from fedunlearn.plots.roc import grouped, roc_curves, steps, ticks_with

# --- ROC --------------------------------------------------------------------------------------------------------------


def test_curves_are_grouped_by_family_and_model():
    families = grouped(example.roc())
    assert {family: list(panels) for family, panels in families.items()} == {
        "simple": ["unlearned"], "shadow": ["original", "unlearned"], "": ["control"]
    }  # fmt: skip
    odd = grouped([{"group": "odd, one"}, {"group": "simple, retrained"}, {"group": "simple, original"}])
    assert {family: list(panels) for family, panels in odd.items()} == {
        "odd, one": [""], "simple": ["original", "retrained"]
    }  # fmt: skip


def test_every_roc_curve_is_drawn_with_the_line_of_chance_and_the_smallest_rate():
    curves = example.roc()
    figure = roc_curves(curves)
    panels = [axes for axes in figure.axes if axes.get_xscale() == "log"]
    assert len(panels) == 4 and all(axes.get_yscale() == "log" for axes in panels)
    low = panels[0].get_xlim()[0]
    assert 0 < low < 1 / 400 and {axes.get_xlim() for axes in panels} == {(low, 1.0)}
    found = [tuple(map(tuple, np.column_stack(line.get_data()))) for axes in panels for line in axes.lines]
    for curve in curves:
        wanted = tuple(map(tuple, np.column_stack(steps(curve["fpr"], curve["tpr"], low))))
        assert wanted in found
    assert found.count(((low, low), (1.0, 1.0))) == 4
    written = texts(figure)
    for curve in curves:
        assert curve["label"] in written and f"{curve['auc']:.2f}" in written
    for axes in panels:
        assert "0.0025" in [tick.get_text() for tick in axes.get_xticklabels()]


def test_labels_lose_the_model_that_the_panel_is_named_after():
    curve = {**example.roc()[0], "label": "loss, unlearned"}
    written = texts(roc_curves([curve])).splitlines()
    assert "loss" in written and "loss, unlearned" not in written


def test_rates_of_zero_are_drawn_at_the_edge():
    fpr, tpr = steps([0.0, 0.5], [0.0, 0.002], 0.01)
    assert fpr.tolist() == [0.01, 0.5] and tpr.tolist() == [0.01, 0.01]


@pytest.mark.parametrize("smallest", [0.3, 0.1, 0.02, 0.0025, 1e-4])
def test_labels_on_the_axis_keep_apart(smallest):
    ticks = sorted(ticks_with(smallest, smallest / 2))
    assert smallest in ticks
    gaps = np.diff(np.log10([t for t in ticks if t <= max(smallest * 10, 1)]))
    assert len(gaps) == 0 or gaps.min() > 0.2 * abs(np.log10(smallest / 2))


# --- the network ------------------------------------------------------------------------------------------------------


def dots(figure, panel: int) -> np.ndarray:
    """Return the colours' numbers of the nodes of a map, ascending: they are drawn in that order."""
    return np.asarray(figure.axes[panel].collections[2].get_array())


def test_both_maps_show_every_node_on_one_scale():
    network = example.network()
    figure = influence_map(network)
    before, after = (network["per_node"][f"distance_{when}"] for when in ("before", "after"))
    np.testing.assert_allclose(dots(figure, 0), sorted(before))
    np.testing.assert_allclose(dots(figure, 1), sorted(v for v in after if v is not None))
    norms = [figure.axes[panel].collections[2].norm for panel in (0, 1)]
    assert norms[0] is norms[1] and norms[0].vmax == max(before)
    assert norms[0].vmin == min(v for v in after if v is not None) < min(before)
    written = texts(figure)
    floor = np.nanmedian(np.array(network["per_node"]["distance_floor"], dtype=float))
    for piece in ("Where client 17's influence lies", "client 17 left", "before", "after", f"{floor:.3g}"):
        assert piece in written


def test_a_client_that_stays_is_not_crossed_out():
    grid = nx.convert_node_labels_to_integers(nx.grid_2d_graph(3, 3))
    figure = influence_map(example.network(grid, client=0, gone=False))
    assert "left" not in texts(figure)
    assert len(dots(figure, 1)) == 9


def test_edges_are_those_before_the_departure_and_the_clients_are_dashed_after_it():
    network = example.network()
    figure = influence_map(network)
    mine = sum(17 in edge for edge in network["edges"])
    counts = [[len(c.get_segments()) for c in axes.collections[:2]] for axes in figure.axes[:2]]
    assert counts == [[len(network["edges"]), 0], [len(network["edges"]) - mine, mine]] and mine > 0


def test_without_distances_there_is_no_map_and_without_two_hops_no_reach():
    network = example.network()
    per = {**network["per_node"], "distance_after": [None] * network["nodes"]}
    assert influence_map({**network, "per_node": per}) is None
    short = {name: values[:1] for name, values in network["by_hop"].items()}
    assert reach_by_hop({**network, "by_hop": short}) is None
    assert reach_by_hop({**network, "by_hop": {"hop": [0, 1], "count": [1, 2], "predicted": [1.0, 0.5]}}) is None
    assert reach_over_rounds(example.network(rounds=False)) is None


def test_equal_distances_have_a_scale_too():
    network = example.network()
    per = {name: [0.5] * network["nodes"] for name in ("distance_before", "distance_after")}
    assert "median 0.5" in texts(influence_map({**network, "per_node": per}))


def test_reach_draws_every_quantity_by_hop():
    network = example.network()
    figure = reach_by_hop(network)
    assert len(figure.axes) == 3
    table = network["by_hop"]
    names = (
        ("distance_before", "predicted", "distance_after", "distance_floor"),
        ("membership_auc_before", "membership_auc_after", "membership_auc_floor"),
        ("forget_accuracy_before", "forget_accuracy_after", "forget_accuracy_retrained"),
    )
    for panel, quantities in enumerate(names):
        for line, name in zip(figure.axes[panel].lines, quantities, strict=True):
            np.testing.assert_array_equal(line.get_xdata(), table["hop"])
            np.testing.assert_allclose(line.get_ydata(), np.array(table[name], dtype=float))
    written = texts(figure)
    for piece in ("before", "after", "predicted", "floor", "retrained", "hops from the client (nodes)"):
        assert piece in written
    assert figure.axes[0].get_yscale() == "log" and figure.axes[1].get_yscale() == "linear"
    assert figure.axes[0].get_xticklabels()[1].get_text() == f"1\n({table['count'][1]})"


def test_a_prediction_far_away_does_not_set_the_scale():
    network = example.network()
    table = {**network["by_hop"]}
    limits = reach_by_hop(network).axes[0].get_ylim()
    table["predicted"] = [1e-9 for _ in table["hop"]]
    figure = reach_by_hop({**network, "by_hop": table})
    assert figure.axes[0].get_ylim() == limits and "predicted ↓" in texts(figure)


def test_rounds_are_drawn_by_hop_beside_prediction_and_floor():
    network = example.network()
    figure = reach_over_rounds(network)
    table = network["rounds"]
    first = figure.axes[0].lines
    hops = len(table["hop"])
    assert len(first) == 1 + 2 * hops and len(figure.axes[1].lines) == hops
    np.testing.assert_allclose(first[0].get_ydata(), [row[0] for row in table["distance_floor"]])
    for k in range(hops):
        np.testing.assert_allclose(first[1 + 2 * k].get_ydata(), [row[k] for row in table["distance"]])
        np.testing.assert_allclose(first[2 + 2 * k].get_ydata(), [row[k] for row in table["predicted"]])
    for piece in ("the client", "1 hop", "2 hops", "floor", "round of training"):
        assert piece in texts(figure)


def test_rounds_without_a_node_at_some_distance_are_left_out():
    network = example.network()
    table = {**network["rounds"]}
    table["distance"] = [[None, *row[1:]] for row in table["distance"]]
    figure = reach_over_rounds({**network, "rounds": table})
    assert len(figure.axes[0].lines) == 1 + 2 * len(table["hop"]) - 1
    names = [[text.get_text() for text in axes.texts] for axes in figure.axes]
    assert ["the client" in panel for panel in names] == [False, True, True]


def test_of_many_distances_some_are_drawn_and_tiny_ones_leave_the_picture():
    network = example.network(nx.path_graph(21), client=0, gone=False)
    figure = reach_over_rounds(network)
    names = [text.get_text() for text in figure.axes[0].texts]
    assert names == ["floor", "the client", "1 hop", "2 hops", "3 hops", "6 hops", "11 hops", "20 hops ↓"]
    low, high = figure.axes[0].get_ylim()
    assert figure.axes[0].get_yscale() == "log" and 1e-5 < low < 1e-4 < high
    texts(figure)


# --- relearning -------------------------------------------------------------------------------------------------------


def test_relearning_draws_losses_target_and_steps():
    found = example.relearning()
    figure = relearning_curves(found)
    drawn_lines = [np.column_stack(line.get_data()) for line in figure.axes[0].lines]
    for loss in found["loss"].values():
        wanted = np.column_stack([found["steps"], loss])
        assert any(len(line) == len(wanted) and np.allclose(line, wanted) for line in drawn_lines)
    took = reached(np.array(found["steps"], float), np.array(found["loss"]["unlearned"]), found["target_loss"])
    k = -28 * np.log((found["target_loss"] - 0.08) / (0.62 - 0.08))  # where the curve itself meets the target
    assert took == pytest.approx(k, abs=0.05)
    written = texts(figure)
    for piece in ("unlearned", "retrained", "control", "0.13", f"{took:.2g} steps", "0 steps"):
        assert piece in written


def test_a_model_that_never_learns_is_said_so_and_a_fast_one_shortens_the_axis():
    steps_ = list(range(101))
    slow = {"steps": steps_, "target_loss": 0.1, "loss": {"unlearned": [1.0] * 101, "retrained": [0.05] * 101}}
    figure = relearning_curves(slow)
    assert "not reached" in texts(figure) and figure.axes[0].get_xlim()[1] > 100
    fast = {**slow, "target_loss": 2.0}
    assert relearning_curves(fast).axes[0].get_xlim()[1] < 11


def test_the_first_step_below_the_target_is_interpolated():
    assert reached(np.array([0.0, 1.0, 2.0]), np.array([3.0, 2.0, 1.0]), 1.5) == 1.5
    assert reached(np.array([0.0, 1.0]), np.array([1.0, 0.5]), 1.5) == 0.0
    assert reached(np.array([0.0, 1.0]), np.array([3.0, 2.0]), 1.5) is None
