"""Experiments from TOML: what is read, what is written back, and every mistake in one sentence."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from fedunlearn import config
from fedunlearn.config import (
    Experiment,
    canonical_json,
    dump_toml,
    load_experiment,
    parse_experiment,
    settings_sha256,
)
from fedunlearn.errors import UserError, listed, nearest
from fedunlearn.settings import Settings

TEXT = """
seed = 3
[training]
rounds = 5
lr = 0.2
[unlearning]
method = "exact"
tolerance = 1e-3
[[requests]]
level = "client"
client = 3
"""


class _Exact(Settings):
    tolerance: float | None = Field(default=None, gt=0)
    steps: int = Field(default=10, ge=1)


class _Quick(Settings):
    steps: int = Field(default=1, ge=1)
    rate: float = 0.5


_METHODS = {"newton": _Exact, "exact": _Exact, "quick": _Quick}


def _settings_for(name):
    if name not in _METHODS:
        sentence = f"unlearning.method = '{name}' is not a known method{nearest(name, _METHODS)}"
        raise UserError(f"{sentence} (allowed: {listed(_METHODS)})")
    return _METHODS[name]


@pytest.fixture(autouse=True, scope="module")
def _small_registry():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedunlearn.unlearning.registry.settings_for", _settings_for)
        yield


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(TEXT)
    return path


def sentence(file, *overrides):
    with pytest.raises(UserError) as caught:
        load_experiment(file, overrides)
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_file_gives_typed_settings(file):
    experiment = load_experiment(file)
    assert (experiment.name, experiment.seed, experiment.training.rounds) == ("x", 3, 5)
    assert experiment.unlearning.method == "exact"
    assert experiment.unlearning.settings == _Exact(tolerance=1e-3)
    assert [(r.level, r.client) for r in experiment.requests] == [("client", 3)]
    assert experiment.privacy.delta == 1e-5


def test_the_name_of_a_file_becomes_a_usable_name(tmp_path):
    path = tmp_path / "my first (try).toml"
    path.write_text("")
    assert load_experiment(path).name == "my-first-try"


def test_no_unlearning_table_means_the_default_method(tmp_path):
    path = tmp_path / "empty.toml"
    path.write_text("")
    assert load_experiment(path).unlearning.method == config.DEFAULT_METHOD


def test_overrides_are_toml_values_and_bare_words_are_texts(file):
    changes = ["training.rounds=40", "training.weighting=samples", "requests.0.client=7", "data.train_clients=5"]
    changes += [
        "model.hidden=[8, 4]",
        "requests.1.level=class",
        "requests.1.label=3",
        'requests.2={level="client",client=1}',
    ]
    experiment = load_experiment(file, changes)
    assert experiment.training.rounds == 40
    assert experiment.training.weighting == "samples"
    assert experiment.data.train_clients == "5"
    assert experiment.model.hidden == (8, 4)
    assert [r.level for r in experiment.requests] == ["client", "class", "client"]
    assert (experiment.requests[0].client, experiment.requests[1].label) == (7, 3)


def test_the_last_override_of_a_key_wins(file):
    assert load_experiment(file, ["seed=1", "seed=2"]).seed == 2


def test_another_method_drops_the_former_methods_keys_only(file):
    quick = load_experiment(file, ["unlearning.method=quick"])
    assert quick.unlearning.settings == _Quick()
    assert "tolerance = 1 is not a known key" in sentence(file, "unlearning.method=quick", "unlearning.tolerance=1")
    file.write_text(TEXT.replace("tolerance", "toleranc"))
    assert "toleranc = 0.001 is not a known key" in sentence(file, "unlearning.method=quick")


def test_loading_what_was_dumped_gives_an_equal_experiment(file, tmp_path):
    experiment = load_experiment(file, ["requests.1.level=sample", "requests.1.client=0", "requests.1.samples=[1,2]"])
    copy = tmp_path / "settings.toml"
    copy.write_text(dump_toml(experiment))
    again = load_experiment(copy)
    assert again == experiment
    assert hash(again) == hash(experiment)
    assert tomllib.loads(copy.read_text())["schema"] == config.SCHEMA


@given(
    seed=st.integers(0, 2**63 - 1),
    rate=st.floats(1e-300, 1e300),
    name=st.from_regex(r"\A[A-Za-z0-9][A-Za-z0-9._-]{0,20}\Z"),
    out=st.none()
    | st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=20).map("runs/x{}".format),
    hidden=st.lists(st.integers(1, 999), max_size=3),
    labels=st.lists(st.integers(0, 9) | st.sampled_from(["a", 'quo"te', "ü"]), max_size=3),
)
def test_any_settings_survive_toml_and_json(seed, rate, name, out, hidden, labels):
    table = {"name": name, "seed": seed, "out": out, "training": {"lr": rate}, "model": {"hidden": hidden}}
    table["requests"] = [{"level": "class", "label": label} for label in labels]
    experiment = Experiment.model_validate(table)
    assert parse_experiment(tomllib.loads(dump_toml(experiment))) == experiment
    assert Experiment.model_validate(json.loads(experiment.model_dump_json())) == experiment


def test_the_hash_is_of_the_canonical_json_and_ignores_where_results_go(file):
    experiment = load_experiment(file)
    table = json.loads(canonical_json(experiment))
    assert "out" not in table
    assert canonical_json(experiment) == json.dumps(table, sort_keys=True, separators=(",", ":"))
    assert settings_sha256(experiment) == hashlib.sha256(canonical_json(experiment).encode()).hexdigest()
    assert settings_sha256(load_experiment(file, ["out=elsewhere"])) == settings_sha256(experiment)
    for change in ("seed=4", "training.lr=0.3", "unlearning.steps=11", "requests.0.client=4", "runtime.hosts=2"):
        assert settings_sha256(load_experiment(file, [change])) != settings_sha256(experiment)


def test_spelling_a_default_out_changes_no_hash(file):
    assert settings_sha256(load_experiment(file, ["training.momentum=0"])) == settings_sha256(load_experiment(file))


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        (
            "training.lerning_rate=0.1",
            ["training.lerning_rate = 0.1 is not a known key, did you mean 'lr'?", "(allowed:"],
        ),
        ("training.round=1", ["training.round = 1 is not a known key, did you mean 'rounds'?"]),
        ("training.weight_decay=1", ["did you mean 'l2'?"]),
        ("trainng.lr=1", ["[trainng] is not a known table, did you mean 'training'?"]),
        ("rounds=3", ["rounds = 3 is not a known key, did you mean 'training.rounds'?"]),
        ("zzz=3", ["zzz = 3 is not a known key (allowed: name, seed, out"]),
        ("training.rounds=a", ['training.rounds = "a" must be a whole number of at least 0']),
        ("training.rounds=-1", ["training.rounds = -1 must be a whole number of at least 0"]),
        ("training.rounds=2.5", ["training.rounds = 2.5 must be a whole number"]),
        ("training.clip=nan", ["training.clip = NaN must be a number greater than 0"]),
        ("training.clip=inf", ["training.clip = Infinity must be a number greater than 0"]),
        ("training.bfloat16=maybe", ['training.bfloat16 = "maybe" must be true or false']),
        ("training=3", ["training = 3 must be a table"]),
        ("privacy.delta=2", ["privacy.delta = 2 must be a number greater than 0 and less than 1"]),
        ("privacy.delta=0", ["privacy.delta = 0 must be a number greater than 0 and less than 1"]),
        ("privacy.epsilon=0", ["privacy.epsilon = 0 must be a number greater than 0"]),
        ("privacy.noise=secrt", ["must be one of simulated, secret, did you mean 'secret'?"]),
        ("topology.generator=watts", ["must be one of ring,", "did you mean 'watts-strogatz'?"]),
        ("model.name=small_cnn", ['model.name = "small_cnn" must be one of softmax', "did you mean 'small-cnn'?"]),
        ("model.features=froze", ["must be one of raw, unit, frozen, did you mean 'frozen'?"]),
        ("model.hidden=[1,'a']", ['model.hidden.1 = "a" must be a whole number']),
        ("requests=3", ["requests = 3 must be a list of tables"]),
        ("requests.0=3", ["requests.0 = 3 must be a table"]),
        ("requests.0.clent=3", ["requests.0.clent = 3 is not a known key, did you mean 'client'?"]),
        ("requests.0.level=sample", ["requests.0: a request of level 'sample' needs exactly one of"]),
        ("requests.0.label=[1]", ["requests.0.label = [1] must be a text in quotes or a whole number"]),
        ("requests.1.level=client", ["requests.1: a request of level 'client' needs the key 'client'"]),
        ("requests.1.client=2", ["requests.1.level is missing; it must be one of sample, class, client"]),
        ("requests.2.client=3", ["'2' in requests.2 must be a number from 0 to 1"]),
        ("requests.x.client=3", ["'x' in requests.x must be a number from 0 to 1"]),
        ("unlearning.method=exat", ["unlearning.method = 'exat' is not a known method, did you mean 'exact'?"]),
        ("unlearning.method=3", ["unlearning.method = 3 must be a text in quotes"]),
        ("unlearning.toleranc=3", ["unlearning.toleranc = 3 is not a known key, did you mean 'tolerance'?"]),
        ("unlearning.tolerance=0", ["unlearning.tolerance = 0 must be a number greater than 0"]),
        ("unlearning=3", ["unlearning = 3 must be a table"]),
        ("name=a/b", ['name = "a/b" must be a text of this form: letters, digits']),
        ("seed=-1", ["seed = -1 must be a whole number of at least 0"]),
        ("seed.x=3", ["seed = 3 has no keys of its own"]),
    ],
)
def test_a_mistake_is_one_sentence_with_file_key_value_and_what_is_allowed(file, override, parts):
    text = sentence(file, override)
    assert text.startswith(str(file))
    for part in parts:
        assert part in text


def test_a_mistake_in_the_file_is_not_blamed_on_an_override(file):
    file.write_text(TEXT.replace("lr = 0.2", "lr = 0"))
    assert sentence(file, "seed=1") == f"{file}: training.lr = 0 must be a number greater than 0"
    assert sentence(file, "training.lr=-1").startswith(f"{file} with --set: training.lr = -1")


def test_several_mistakes_are_counted_and_the_first_is_told(file):
    assert sentence(file, "training.lr=0", "privacy.delta=3").endswith("greater than 0 (1 more after this one)")


@pytest.mark.parametrize("override", ["seed", "=3", "a..b=3", ".a=3"])
def test_an_override_needs_a_key_and_a_value(file, override):
    assert f"--set {override.split('=')[0]}" in sentence(file, override)


def test_a_file_that_cannot_be_read_is_said_so(tmp_path, file):
    assert sentence(tmp_path / "y.toml") == f"{tmp_path / 'y.toml'}: no such file, did you mean '{file}'?"
    assert "is a folder" in sentence(tmp_path)
    broken = tmp_path / "broken.toml"
    broken.write_text("seed 3")
    assert "is not valid TOML" in sentence(broken) and "line 1" in sentence(broken)
    broken.write_bytes(b"\xff\xfe\x00")
    assert "UTF-8" in sentence(broken)
    broken.write_text('schema = "fedunlearn/settings/99"')
    assert "fedunlearn/settings/99" in sentence(broken) and "allowed: 'fedunlearn/settings/1'" in sentence(broken)


def test_the_package_is_imported_without_the_heavy_libraries():
    code = "import fedunlearn.cli, sys; print([m for m in ('torch', 'flwr', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_found_when_asked_for():
    import fedunlearn

    assert fedunlearn.Experiment is Experiment
    assert fedunlearn.load_experiment is load_experiment
    assert callable(fedunlearn.run)
    assert {"run", "Experiment", "load_experiment"} <= set(dir(fedunlearn))
    with pytest.raises(AttributeError, match="nothing"):
        _ = fedunlearn.nothing


def test_the_version_is_that_of_the_project():
    import pathlib

    import fedunlearn

    project = tomllib.loads((pathlib.Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    assert fedunlearn.__version__ == project["version"]
