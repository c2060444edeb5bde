"""Mutated experiment files: each is an experiment in the allowed ranges, or one sentence; never anything else.

A file that is accepted is judged a second time: its settings must survive being written and read again, every number is
finite, every path stays in the folder or is absolute. What can be prepared without training (data, graph, requests,
model, method) is prepared, or refused in one sentence; sizes are looked at first, for an experiment may be large.
"""

from __future__ import annotations

import math
import os
import random
import tomllib
from collections import Counter
from pathlib import Path

import pytest

from fedunlearn.config import Experiment, dump_toml, load_experiment, parse_experiment
from fedunlearn.errors import UserError
from tests.fuzz.mutations import at_most, mutated_toml

PROJECT = Path(__file__).resolve().parents[2]
FILES = [p for p in sorted((PROJECT / "simulations").rglob("*.toml")) if "sweeps" not in p.parts]
PREPARED_DATA = {"digits", "writers"}
SMALL = b"""
name = "small"
seed = 3
[data]
source = "digits"
partition = "dirichlet"
clients = 6
alpha = 0.5
max_samples_per_client = 20
[topology]
generator = "ring"
mixing = "metropolis"
repair = "path"
[model]
name = "softmax"
features = "unit"
[training]
rounds = 4
lr = 4.0
l2 = 1e-2
[unlearning]
method = "newton"
[privacy]
epsilon = 1.0
delta = 1e-5
[runtime]
workers = 0
[[requests]]
level = "client"
client = 2
[[requests]]
level = "sample"
client = 1
count = 3
"""


def one_sentence(error: UserError) -> None:
    text = str(error)
    assert text and "\n" not in text and "Traceback" not in text and len(text) < 2000, text[:300]


def judge(experiment: Experiment) -> None:
    """Assert that an accepted experiment is one: the same when written and read, finite, and in its folder."""
    assert parse_experiment(tomllib.loads(dump_toml(experiment))) == experiment
    stack = [experiment.model_dump()]
    while stack:
        value = stack.pop()
        if isinstance(value, dict | list | tuple):
            stack += list(value.values() if isinstance(value, dict) else value)
        assert not isinstance(value, float) or math.isfinite(value)
    paths = (experiment.data.path, experiment.topology.path, experiment.model.checkpoint, experiment.runtime.scratch)
    for path in (*paths, experiment.out):
        if path is not None and not os.path.isabs(os.path.expanduser(path)):
            assert Path(path).resolve().is_relative_to(Path.cwd())


def is_small(e: Experiment) -> bool:
    """Return whether preparing the experiment takes no time by its own numbers."""
    data = e.data
    if data.source not in PREPARED_DATA or e.model.features == "frozen" or ":" in e.model.name:
        return False
    most = {"clients": data.clients or 0, "writers": data.writers, "fill": data.fill_writers or 0}
    each = data.samples_per_writer if isinstance(data.samples_per_writer, int) else 300
    if max(most.values()) > 300 or (data.source == "writers" and data.writers * each > 20_000):
        return False
    if math.prod(e.model.hidden) > 10**6 or max(e.model.hidden, default=1) > 10**4 or len(e.model.hidden) > 8:
        return False
    return e.training.rounds <= 10**4 and (e.training.local_steps or 1) <= 10**4 and data.shards_per_client <= 100


def prepared(experiment: Experiment) -> str:
    from fedunlearn.simulation.world import prepare

    try:
        prepare(experiment, lambda *_: None)
    except UserError as error:
        one_sentence(error)
        return "refused when prepared"
    return "prepared"


def fuzz(number: int, folder: Path, seed: int, sources: list[bytes], prepare_one_in: int) -> Counter[str]:
    rng, found = random.Random(seed), Counter[str]()
    file = folder / "mutant.toml"
    for i in range(number):
        file.write_bytes(mutated_toml(rng.choice(sources), rng))
        try:
            with at_most(5):
                try:
                    experiment = load_experiment(file)
                except UserError as error:
                    one_sentence(error)
                    found["refused"] += 1
                    continue
                judge(experiment)
                found["accepted"] += 1
                if i % prepare_one_in == 0 and is_small(experiment):
                    found[prepared(experiment)] += 1
        except BaseException:
            (folder / "worst.toml").write_bytes(file.read_bytes())
            print(f"mutant {i} of seed {seed}:\n{file.read_bytes()[:3000]!r}")
            raise
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_five_hundred_mutants_of_the_shipped_experiments(folder):
    found = fuzz(450, folder, 1, [p.read_bytes() for p in FILES], 10**9)
    assert found["accepted"] > 40 and found["refused"] > 200  # else the mutations say nothing


def test_mutants_of_a_small_experiment_are_prepared_or_refused(folder):
    found = fuzz(70, folder, 2, [SMALL], 1)
    assert found["accepted"] > 5 and found["refused"] > 15 and found["prepared"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(10, 18))
def test_ten_thousand_mutants(folder, seed):
    shipped = fuzz(950, folder, seed, [p.read_bytes() for p in FILES], 10**9)
    small = fuzz(300, folder, 100 + seed, [SMALL], 1)
    print(seed, dict(shipped), dict(small))
    assert shipped["accepted"] and shipped["refused"] and small["prepared"] and small["refused when prepared"]
