"""The figure of a comparison: a panel a measure with every run's number, and the reach of each run."""

from __future__ import annotations

import copy

import example_evaluation
from test_figures import texts

from fedunlearn.plots.compare_runs import MOST, compare_figure, drawn_measures


def comparison(**changes):
    evaluation = example_evaluation.evaluation()
    models = {name: {"test_accuracy": 0.8, "forget_accuracy": 0.7} for name in ("original", "retrained", "unlearned")}
    columns = ("original", "unlearned", "retrained", "control")
    made = {
        "runs": [{"label": label, "models": models} for label in ("newton", "finetune")],
        "measures": [
            {**{k: m[k] for k in ("name", "section", "reads")},
             "runs": {label: {c: m[c] for c in columns} for label in ("newton", "finetune")}}
            for m in evaluation["measures"]
        ],
        "reach": {"newton": evaluation["curves"]["network"]["by_hop"]}, "warnings": [],
    }  # fmt: skip
    return {**copy.deepcopy(made), **changes}


def test_every_measure_and_every_run_is_drawn():
    found = comparison()
    figure = compare_figure(found)
    panels = figure.axes[: len(found["measures"])]
    for axes, measure in zip(panels, found["measures"]):
        dots = [line for line in axes.lines if line.get_marker() == "o"]
        assert [line.get_xdata()[0] for line in dots] == [
            measure["runs"][r]["unlearned"]["value"] for r in measure["runs"]
        ]
        ticks = [line.get_xdata()[0] for line in axes.lines if line.get_color() == "#009e73"]
        assert ticks == [r["retrained"]["value"] for r in measure["runs"].values() if r["retrained"]]
    written = texts(figure)
    for piece in ("●  newton", "●  finetune", "loss AUC: forget below test", "0.523", "distance: newton"):
        assert piece in written
    assert len(figure.axes) == len(found["measures"]) + 1


def test_a_number_stands_to_the_right_of_all_that_its_row_shows():
    found = comparison(reach={})
    figure = compare_figure(found)
    for axes, measure in zip(figure.axes, found["measures"]):
        for text, columns in zip(axes.texts, measure["runs"].values(), strict=True):
            shown = [columns[name]["value"] for name in ("unlearned", "retrained", "control") if columns[name]]
            assert text.xy[0] >= max(shown) and text.xy[0] >= (columns["unlearned"]["high"] or 0)


def test_without_evaluations_the_accuracies_are_drawn():
    figure = compare_figure(comparison(measures=[], reach={}))
    assert len(figure.axes) == 2 and "accuracy (forget)" in texts(figure)


def test_of_too_many_measures_every_section_keeps_some():
    one = comparison()["measures"][0]
    plain = copy.deepcopy(one)
    for run in plain["runs"].values():
        run["unlearned"] |= {"low": None, "high": None}
    many = [{**plain, "name": f"p{k}"} for k in range(40)] + [{**one, "name": f"m{k}"} for k in range(40)]
    many[3] = {**many[3], "name": "judged", "judged": True}
    few = [{**one, "name": f"n{k}", "section": "network"} for k in range(5)]
    kept = [m["name"] for m in drawn_measures(comparison(measures=[*many, *few]))]
    assert len(kept) == MOST and {f"n{k}" for k in range(5)} < set(kept)
    assert not any(name.startswith("p") for name in kept), "measures with intervals come first"
    assert "judged" in kept
    figure = compare_figure(comparison(measures=[*many, *few], reach={}))
    assert f"{85 - MOST} more in compare.csv" in texts(figure)


def test_many_runs_with_long_names_fit():
    found = comparison()
    labels = [f"a-rather-long-name-of-a-run-number-{k}-of-them" for k in range(7)]
    found["runs"] = [{**found["runs"][0], "label": label} for label in labels]
    for measure in found["measures"]:
        measure["runs"] = dict.fromkeys(labels, measure["runs"]["newton"])
    found["reach"] = dict.fromkeys(labels[:4], found["reach"]["newton"])
    assert "…" in texts(compare_figure(found))
