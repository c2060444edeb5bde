"""Every figure shows the numbers it was given; its look was judged by eye."""

from __future__ import annotations

import doctest

import example_run
import networkx as nx
import numpy as np
import pytest
from matplotlib.figure import Figure

from fedunlearn.plots import (
    accuracy_over_rounds,
    certificate_curves,
    certificates,
    comparison,
    draw_all,
    influence_over_rounds,
    topology,
    topology_moved,
)
from fedunlearn.plots.accuracy import curves
from fedunlearn.plots.layout import layout
from fedunlearn.privacy import delta_of
from fedunlearn.results import MetricRow, RunDirectory
from fedunlearn.topology import mixing_matrix


def texts(figure: Figure) -> str:
    """Return all that is written in a figure, and check that none of it leaves the picture."""
    figure.draw_without_rendering()
    width, height = figure.get_size_inches() * figure.dpi
    found = []
    for axes in figure.axes:
        found += [t for t in axes.texts if t.get_text()]
        found += [title for title in (axes.title, axes._left_title, axes.xaxis.label) if title.get_text()]
    found += figure.texts
    for text in found:
        box = text.get_window_extent()
        assert box.x0 > -1 and box.y0 > -1 and box.x1 < width + 1 and box.y1 < height + 1, text.get_text()
    return "\n".join(text.get_text() for text in found)


def lines(figure: Figure, axes: int = 0) -> list[np.ndarray]:
    return [np.column_stack(line.get_data()) for line in figure.axes[axes].lines]


def test_accuracy_draws_what_the_table_says():
    figure = accuracy_over_rounds(example_run.metrics(), request="client 17 leaves with 158 samples")
    found = curves(example_run.metrics())
    drawn = [tuple(map(tuple, line)) for line in lines(figure)]
    for key in (
        ("original", "average"),
        ("retrained", "average"),
        ("original", "nodes-mean"),
        ("unlearned", "average"),
    ):
        assert tuple(zip(found[key].rounds, found[key].values)) in drawn
    written = texts(figure)
    for piece in ("client 17 leaves", "0.838  unlearned", "retrained", "original", "mean of nodes"):
        assert piece in written


def test_accuracy_takes_the_last_of_several_retrainings():
    rows = [MetricRow(0, f"retrain {k}", "retrained", "test", "average", "accuracy", k / 10) for k in range(3)]
    rows.append(MetricRow(0, "retrain 2", "retrained", "forget", "average", "accuracy", 0.9))
    curve = curves(rows)["retrained", "average"]
    assert curve.values.tolist() == [0.2]


@pytest.mark.parametrize(
    "rows", [[], example_run.metrics(1, 1), example_run.metrics()[:5]], ids=["none", "short", "one"]
)
def test_accuracy_of_short_runs(rows):
    texts(accuracy_over_rounds(rows))


def test_comparison_writes_every_value_once():
    summary = example_run.summary()
    written = texts(comparison(summary)).split("\n")
    for key in ("test_accuracy", "retain_accuracy", "forget_accuracy", "membership_auc_forget_vs_test"):
        for entry in summary["models"].values():
            assert f"{entry[key]:.3f}" in written
    assert {"original", "retrained", "unlearned", "public head"} <= set(written)


def test_comparison_leaves_out_what_was_not_measured():
    summary = example_run.summary()
    for entry in summary["models"].values():
        entry["never_member_accuracy"] = None
    summary["models"]["newton_from_the_public_head"] = summary["models"].pop("public_head")
    summary["models"]["unlearned"]["forget_accuracy"] = None
    figure = comparison(summary)
    assert "never-members" not in texts(figure)
    assert len(figure.axes) == 4


def test_comparison_of_a_run_without_requests():
    texts(comparison({"models": {"original": example_run.measured(0.8, 0.9, None, None, None)}}))


def test_certificate_curve_is_the_profile_through_the_claim():
    certificate = example_run.certificate().to_dict()
    figure = certificate_curves([certificate])
    profile, claim = lines(figure)
    for epsilon, delta in profile[::40]:
        assert delta == pytest.approx(delta_of(certificate["mu"], epsilon))
    assert claim.tolist() == [[1.0, 1e-5]]
    noise, drawn = lines(figure, 1)
    assert drawn.tolist() == [[1.0, certificate["sigma"]]]
    assert np.interp(0, np.log(noise[:, 0]), np.log(noise[:, 1])) == pytest.approx(
        np.log(certificate["sigma"]), abs=1e-3
    )
    written = texts(figure)
    assert "valid: every premise was enforced" in written and "ε = 1, δ = 1e-5" in written


def test_certificates_that_are_not_valid_look_so():
    bad = example_run.certificate(extractor="unverified").to_dict()
    figure = certificate_curves([bad])
    assert "NOT valid" in texts(figure)
    assert all(line.get_linestyle() == "--" or line.get_markerfacecolor() == "#ffffff" for line in figure.axes[0].lines)


def test_equal_certificates_are_drawn_once():
    equal, other = example_run.certificate().to_dict(), example_run.certificate(3.0, 1e-6).to_dict()
    figure = certificate_curves([equal, equal, other, equal])
    assert len(figure.axes[0].lines) == 4
    written = texts(figure)
    assert "release 1 to release 4: ε = 1" in written and "release 3: ε = 3" in written


def test_a_claim_about_one_pair_is_a_mark_without_a_curve():
    pair = {**example_run.certificate(3.0, 1e-6).to_dict(), "mu": None, "kind": "certifier"}
    figure = certificate_curves([pair])
    assert [line.tolist() for line in lines(figure)] == [[[3.0, 1e-6]]]
    assert [line.tolist() for line in lines(figure, 1)] == [[[3.0, pair["sigma"]]]]
    assert "ε = 3, δ = 1e-6" in texts(figure)
    together = certificate_curves([example_run.certificate().to_dict(), pair])
    assert len(together.axes[0].lines) == 3
    assert "release 2: ε = 3" in texts(together)


def test_claims_about_messages_share_the_number_of_their_release():
    claim = example_run.certificate().to_dict()
    message = {**example_run.certificate(3.0, 1e-6).to_dict(), "kind": "message"}
    assert "message 1: ε = 3" in texts(certificate_curves([claim, message]))
    assert doctest.testmod(certificates).failed == 0


def test_claims_without_noise_are_not_drawn():
    exact = {**example_run.certificate().to_dict(), "kind": "exact", "epsilon": 0.0, "sigma": 0.0, "mu": 0.0}
    assert not certificates.drawable(exact) and certificates.drawable(example_run.certificate().to_dict())


def test_an_exact_answer_under_noise_is_not_drawn():
    """A rewind to the start is retraining, released with the noise of every other answer: mu is 0, sigma is not."""
    noised = {**example_run.certificate().to_dict(), "kind": "exact", "sensitivity": 0.0, "mu": 0.0}
    assert noised["sigma"] > 0 and noised["epsilon"] > 0
    assert not certificates.drawable(noised)
    assert certificates.drawable({**noised, "mu": None}), "a claim of one pair stays a mark"


@pytest.mark.parametrize(("epsilon", "delta"), [(0.01, 1e-9), (50.0, 0.1), (8.0, 1e-3)])
def test_certificates_of_all_sizes(epsilon, delta):
    texts(certificate_curves([example_run.certificate(epsilon, delta).to_dict()]))


def test_topology_colours_every_node_that_is_there():
    figure = topology_moved(example_run.graph(), example_run.moved(), leaver=example_run.LEAVER)
    dots = figure.axes[0].collections[2]
    assert len(dots.get_offsets()) == example_run.NODES - 1
    np.testing.assert_array_equal(dots.get_array(), np.delete(example_run.moved(), example_run.LEAVER))
    assert "client 17 left" in texts(figure)


@pytest.mark.parametrize(
    ("graph", "alike"),
    [(nx.empty_graph(1), True), (nx.star_graph(9), True), (nx.path_graph(3), False), (nx.empty_graph(4), False)],
    ids=["one", "star", "path", "no edges"],
)
def test_topology_of_small_and_degenerate_graphs(graph, alike):
    n = len(graph)
    figure = topology_moved(graph, np.full(n, 0.5) if alike else np.arange(n) / n)
    assert ("every node\nmoved by\n0.5" in texts(figure)) == alike


def test_topology_without_numbers_is_still_a_picture():
    texts(topology_moved(nx.cycle_graph(5), np.full(5, np.nan), alive=np.array([True] * 4 + [False]), leaver=(0, 1)))


@pytest.mark.parametrize(
    "graph", [nx.barabasi_albert_graph(600, 2, seed=1), nx.disjoint_union(*[nx.path_graph(200)] * 2)]
)
def test_large_layouts_are_repeatable_and_fill_the_picture(graph):
    places = layout(graph)
    np.testing.assert_array_equal(places, layout(graph))
    assert np.isfinite(places).all() and np.abs(places).max() == pytest.approx(1)
    assert len(np.unique(places.round(9), axis=0)) > 150


def test_layout_of_a_grid_keeps_neighbours_near():
    graph = nx.convert_node_labels_to_integers(nx.grid_2d_graph(20, 20))
    places = layout(graph)
    edges = np.array(graph.edges())
    assert np.linalg.norm(places[edges[:, 0]] - places[edges[:, 1]], axis=1).max() < 0.35


def test_layout_uses_given_places():
    graph = nx.random_geometric_graph(12, 0.9, seed=1)
    places, given = layout(graph), np.array([graph.nodes[i]["pos"] for i in range(12)])
    assert np.corrcoef(places[:, 0], given[:, 0])[0, 1] == pytest.approx(1)


@pytest.mark.parametrize("graph", [nx.empty_graph(1), nx.cycle_graph(7), nx.barabasi_albert_graph(400, 3, seed=2)])
def test_a_graph_by_itself_shows_every_vertex_and_edge(graph):
    figure = topology(graph, "a name", f"{len(graph)} nodes")
    assert texts(figure).splitlines() == ["a name", f"{len(graph)} nodes"]
    edges, vertices = figure.axes[0].collections
    assert len(vertices.get_offsets()) == len(graph)
    assert len(edges.get_segments()) == graph.number_of_edges()


def influence(rounds: int = 12) -> tuple[np.ndarray, np.ndarray]:
    matrix = mixing_matrix(example_run.graph(), "metropolis").toarray()
    powers = [np.linalg.matrix_power(matrix, k)[:, example_run.LEAVER] for k in range(rounds + 1)]
    predicted = np.array(powers)
    measured = predicted * 1.1
    measured[:, 3] = np.nan
    return predicted, measured


def test_influence_draws_the_mean_of_every_ring():
    predicted, measured = influence()
    figure = influence_over_rounds(predicted, measured, example_run.graph(), example_run.LEAVER)
    line, dots, *_ = lines(figure)
    np.testing.assert_allclose(line[:, 1], predicted[:, example_run.LEAVER])
    np.testing.assert_allclose(dots[:, 1], measured[:, example_run.LEAVER])
    written = texts(figure)
    assert "the client" in written and "1 hop" in written and "1/N: even" in written


def test_draw_all_draws_from_the_files_alone(tmp_path):
    predicted, measured = influence()
    summary = example_run.summary()
    summary["requests"][0]["influence"] = {
        "client": example_run.LEAVER, "predicted": predicted.tolist(), "measured": measured.tolist()
    }  # fmt: skip
    run = RunDirectory.create(tmp_path / "run")
    run.write_summary(summary)
    run.write_metrics(example_run.metrics())
    run.write_certificates([example_run.certificate()])
    paths = draw_all(run.path, example_run.graph())
    assert [path.name for path in paths] == [
        "accuracy.png", "comparison.png", "topology.png", "influence.png", "certificate.png"
    ]  # fmt: skip
    assert all(path.parent == run.figures and path.stat().st_size > 5_000 for path in paths)


def test_draw_all_leaves_out_what_a_run_does_not_have(tmp_path):
    run = RunDirectory.create(tmp_path / "run")
    run.write_summary({**example_run.summary(), "requests": []})
    run.write_metrics([])
    run.write_certificates([])
    assert [path.name for path in draw_all(run.path)] == ["accuracy.png", "comparison.png"]
