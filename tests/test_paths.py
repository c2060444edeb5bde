"""Paths of settings: what is relative stays in the working folder, what is absolute is the user's own hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedunlearn.config import Experiment, load_experiment, parse_experiment
from fedunlearn.data import DataSettings, load_dataset
from fedunlearn.errors import UserError
from fedunlearn.paths import confined, is_plain_name
from fedunlearn.topology.files import find_file

EVERY_PATH = ("data.path", "topology.path", "model.checkpoint", "runtime.scratch", "out")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The working folder ``here`` with a file in it, and a file beside it that nobody may name relatively."""
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    (here / "inside.npz").write_text("x")
    (tmp_path / "outside.npz").write_text("x")
    (here / "link").symlink_to(tmp_path)
    (here / "sub" / "back").symlink_to(here)
    monkeypatch.chdir(here)
    return here


@pytest.mark.parametrize("given", ["inside.npz", "./inside.npz", "sub/../inside.npz", "sub/back/inside.npz", "new/x"])
def test_a_path_in_the_working_folder_is_allowed(folder, given):
    assert confined(given, "data.path") == Path(given)


@pytest.mark.parametrize(
    ("given", "way"),
    [
        ("../outside.npz", "by '..'"), ("sub/../../outside.npz", "by '..'"), ("..", "by '..'"),
        ("link/outside.npz", "symbolic link"), ("link", "symbolic link"), ("sub/back/link/new.npz", "symbolic link"),
        ("sub/back/../../outside.npz", "by '..'"),
    ],
)  # fmt: skip
def test_a_relative_path_that_leaves_is_refused_in_one_sentence(folder, given, way):
    with pytest.raises(UserError) as caught:
        confined(given, "data.path")
    sentence = str(caught.value)
    assert sentence.startswith(f"data.path = '{given}' must stay in the working folder") and way in sentence
    assert "\n" not in sentence and "absolute path" in sentence


def test_an_absolute_path_and_a_home_are_the_users_hand(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert confined(str(tmp_path / "outside.npz"), "out") == tmp_path / "outside.npz"
    assert confined("~/outside.npz", "out") == tmp_path / "outside.npz"
    assert confined(str(folder / "link" / "outside.npz"), "out") == folder / "link" / "outside.npz"


@pytest.mark.parametrize("given", ["", "  ", "a\0b", "a\nb", "x" * 300, "x/" * 3000, "~nobody-at-all/x", "\udc80"])
def test_what_can_be_no_path_is_refused_in_one_sentence(folder, given):
    with pytest.raises(UserError) as caught:
        confined(given, "out")
    assert str(caught.value).startswith("out = '") and "\n" not in str(caught.value) and len(str(caught.value)) < 250


def test_a_ring_of_links_is_refused_or_leads_nowhere(folder):
    (folder / "a").symlink_to("b")
    (folder / "b").symlink_to("a")
    try:
        assert not confined("a/x", "data.path").exists()
    except UserError as error:
        assert "data.path" in str(error)


def test_a_path_beside_the_file_that_names_it(folder, tmp_path):
    sweeps = tmp_path / "elsewhere" / "sweeps"
    sweeps.mkdir(parents=True)
    assert confined("base.toml", "base", beside=sweeps) == sweeps / "base.toml"
    assert confined("../inside.npz", "base", beside=folder / "sub") == folder / "sub" / ".." / "inside.npz"
    with pytest.raises(UserError, match=r"base = '\.\./base\.toml' must stay in the working folder"):
        confined("../base.toml", "base", beside=sweeps)


@given(st.text(max_size=30) | st.lists(st.sampled_from(["..", ".", "a", "~", "", "link"]), max_size=6).map("/".join))
def test_whatever_is_relative_ends_inside_or_is_refused(given):
    try:
        path = confined(given, "out")
    except UserError as error:
        assert "\n" not in str(error)
        return
    assert path.is_absolute() or path.resolve().is_relative_to(Path.cwd().resolve())


@pytest.mark.parametrize("key", EVERY_PATH)
def test_every_path_of_an_experiment_is_confined(folder, key):
    for named in ("../outside.npz", "link/outside.npz"):
        (folder / "x.toml").write_text("")
        with pytest.raises(UserError) as caught:
            load_experiment("x.toml", [f"{key}={named}"])
        assert f'x.toml with --set: {key} = "{named}" must stay in the working folder' in str(caught.value)
    load_experiment("x.toml", [f"{key}=sub/new.npz"])
    load_experiment("x.toml", [f"{key}={folder.parent / 'outside.npz'}"])


def test_no_path_of_the_settings_is_forgotten():
    found = []

    def walk(model, prefix):
        for name, field in model.model_fields.items():
            words = f"{name} {field.description or ''}".lower()
            if isinstance(field.annotation, type) and hasattr(field.annotation, "model_fields"):
                walk(field.annotation, f"{prefix}{name}.")
            elif field.annotation in (str, str | None) and any(w in words for w in ("path", "file", "folder")):
                found.append(prefix + name)

    walk(Experiment, "")
    assert sorted(found) == sorted(EVERY_PATH)


def test_a_link_that_was_changed_after_the_settings_were_read(folder, tmp_path):
    (folder / "data.csv").write_text("label,x\n1,2\n")
    (tmp_path / "secret.csv").write_text("label,x\n1,2\n")
    settings = DataSettings(source="table", path="data.csv", clients=1)
    (folder / "data.csv").unlink()
    (folder / "data.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(UserError, match=r"data\.path = 'data\.csv' must stay in the working folder"):
        load_dataset(settings)


def test_a_named_topology_is_a_name_and_no_way_out(folder, tmp_path):
    (folder / "topologies").mkdir()
    (tmp_path / "graph.edgelist").write_text("0 1\n")
    (folder / "topologies" / "linked.edgelist").symlink_to(tmp_path / "graph.edgelist")
    (folder / "topologies" / "own.edgelist").write_text("0 1\n")
    assert find_file("own") == folder / "topologies" / "own.edgelist"
    for name in ("linked", "linked.edgelist", "../graph.edgelist", "topologies/linked.edgelist"):
        with pytest.raises(UserError):
            find_file(name)


@pytest.mark.parametrize("name", ["main", "retrained-0", "a.b", "start_1", "request 2"])
def test_plain_names(name):
    assert is_plain_name(name)


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".hidden", "a/b", "../a", "a\\b", "a\0", "a\n", "é", "x" * 101, 3, None]
)
def test_what_is_no_plain_name(name):
    assert not is_plain_name(name)


def test_settings_of_a_file_are_not_confined_twice_to_another_meaning(folder):
    table = parse_experiment({"name": "x", "out": "runs/mine"}).model_dump(mode="json")
    assert table["out"] == "runs/mine"


@pytest.mark.parametrize("key", ["simulation", "out"])
def test_paths_of_flowers_run_configuration_are_confined(folder, key):
    from flwr.app import Context, RecordDict

    from fedunlearn.flower import LocalGrid, server_app
    from fedunlearn.flower.client_app import app

    (folder / "x.toml").write_text("")
    config = {"simulation": "x.toml", key: "link/x.toml"}
    with LocalGrid(app, 1) as grid, pytest.raises(UserError, match=rf"run config: {key} = 'link/x\.toml' must stay"):
        server_app.app(grid, Context(1, 1, {}, RecordDict(), config))
