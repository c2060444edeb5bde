"""``fedunlearn methods``: every method says where it is defined, what it needs, enforces and certifies."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from fedunlearn.cli import app
from fedunlearn.cli.methods import described
from fedunlearn.settings import Settings
from fedunlearn.unlearning.base import Unlearner
from fedunlearn.unlearning.registry import MethodInfo, method, methods


@pytest.fixture
def call(monkeypatch):
    monkeypatch.setenv("COLUMNS", "160")
    return lambda *words: CliRunner().invoke(app, list(words))


def test_every_method_is_listed_with_all_that_it_says_of_itself(call):
    shown = " ".join(call("methods").stdout.split())
    for info in methods().values():
        for sentence in (info.name, info.summary, info.needs or "nothing", info.certifies, info.enforces or "nothing"):
            assert " ".join(sentence.split()) in shown, sentence


def test_json_has_the_same_entries_for_all_and_for_one(call):
    listed = json.loads(call("methods", "--json").stdout)
    assert listed["schema"] == "fedunlearn/methods/1"
    assert [entry["method"] for entry in listed["methods"]] == sorted(methods())
    (one,) = json.loads(call("methods", "newton", "--json").stdout)["methods"]
    assert one in listed["methods"]
    assert {row["key"] for row in one["settings"]} == set(method("newton").settings.model_fields)


def test_a_method_says_where_it_is_not_defined_and_why():
    info = MethodInfo(
        "ring-only", "a test", ("sample",), Settings, Unlearner, networks=("decentralized",), not_defined="no theorem"
    )
    said = described(info)
    assert said["not_defined"] == ["class level", "client level", "centralized setting", "federated setting"]
    assert said["why"] == "no theorem"
    assert described(method("retrain"))["not_defined"] == []


def test_one_method_is_shown_with_its_settings_and_another_spelling_is_refused(call):
    shown = call("methods", "newton").stdout
    assert '[unlearning] method = "newton"' in shown and "target_sigma" in shown and "certifies" in shown
    refused = call("methods", "newtn")
    assert refused.exit_code == 2 and "did you mean 'newton'?" in refused.stderr
