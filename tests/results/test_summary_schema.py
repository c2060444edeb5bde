"""The schema accepts what runs write, and says where something else does not fit."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import example_run
import numpy as np
import pytest

import fedunlearn
from fedunlearn.results import check_summary, versions
from fedunlearn.results.fields import field_table
from fedunlearn.results.files import canonical_json, plain
from fedunlearn.results.schema import Summary


def test_a_summary_goes_through_unchanged():
    given = example_run.summary()
    found = check_summary(given)
    assert json.loads(json.dumps(found)) == json.loads(json.dumps(given))
    assert next(iter(found)) == "schema"


def test_a_checked_summary_fits_again():
    once = check_summary(example_run.summary())
    assert check_summary(once) == once


def test_further_entries_are_kept_and_defaults_filled_in():
    given = example_run.summary()
    given["requests"][0]["fell_back_to_retraining"] = True
    given["data"] = {"name": "digits"}
    found = check_summary(given)
    assert found["requests"][0]["fell_back_to_retraining"] is True
    assert found["data"] == {"name": "digits", "synthetic": False, "clients": None, "samples": None, "sha256": None}


def test_a_run_without_retraining_or_certificate_fits():
    given = example_run.summary()
    given["models"] = {"original": given["models"]["original"]}
    entry = given["requests"][0]
    for key in ("retrain_cost", "distance_to_retrained", "distance_before", "prediction_distance_to_retrained"):
        del entry[key]
    entry["certificate"], entry["certificate_reason"] = None, "fine-tuning certifies nothing"
    assert check_summary(given)["requests"][0]["retrain_cost"] is None
    assert check_summary({**given, "requests": []})["requests"] == []


def change(path: str, value: object) -> dict:
    summary = example_run.summary()
    *parents, last = path.split(".")
    place = summary
    for key in parents:
        place = place[int(key)] if isinstance(place, list) else place[key]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return summary


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "fedunlearn/summary/1"),
        ("seed", "0"),
        ("topology.nodes", 0),
        ("models.original.test_accuracy", 1.2),
        ("models.original.test_accuracy", "0.8"),
        ("models.unlearned.forget_accuracy", ...),
        ("requests.0.certificate.epsilon", ...),
        ("requests.0.certificate.valid", "yes"),
        ("requests.0.certificate.premises.0.status", "believed"),
        ("requests.0.cost.messages", -1),
        ("requests.0.cost.seconds", math.nan),
    ],
)
def test_a_misfit_is_named_by_its_place(path, value):
    with pytest.raises(ValueError, match=rf"summary\.json: {path}: "):
        check_summary(change(path, value))


def test_the_documentation_has_the_table_of_fields():
    docs = Path(fedunlearn.__file__).parents[1] / "docs" / "results.md"
    assert field_table(Summary) in docs.read_text(encoding="utf-8")


def test_plain_values():
    @dataclass
    class Point:
        x: float
        y: np.ndarray

    given = {
        "a": np.float32(0.5), "b": np.arange(3), "c": (1, None), "d": {3, 1}, "e": Path("x") / "y",
        4: Point(1.0, np.eye(1)), "f": [math.inf, np.array([math.nan])], "g": np.bool_(True),
    }  # fmt: skip
    assert plain(given) == {
        "a": 0.5, "b": [0, 1, 2], "c": [1, None], "d": [1, 3], "e": "x/y", "4": {"x": 1.0, "y": [[1.0]]},
        "f": [None, [None]], "g": True,
    }  # fmt: skip
    with pytest.raises(TypeError, match="a function has no place"):
        plain(lambda: 0)


def test_canonical_json_does_not_depend_on_order():
    assert (
        canonical_json({"b": 1, "a": [1.0, "é"]})
        == canonical_json({"a": [1.0, "é"], "b": 1})
        == '{"a":[1.0,"é"],"b":1}'
    )


def test_versions_name_what_decides_numbers():
    found = versions()
    assert found["fedunlearn"] == fedunlearn.__version__
    assert {"python", "torch", "numpy"} <= set(found) and all(isinstance(v, str) for v in found.values())
