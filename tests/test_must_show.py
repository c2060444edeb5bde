"""The claims of docs/results.md on real FEMNIST, measured again: `make test-slow` with FEDUNLEARN_DATA set."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import fedunlearn.simulation.world
from fedunlearn.config import load_experiment
from fedunlearn.flower import run_local
from fedunlearn.simulation.public import prepare_features

SIMULATIONS = Path(__file__).resolve().parent.parent / "simulations"
pytestmark = [pytest.mark.slow, pytest.mark.femnist]


@pytest.fixture
def one_extractor(monkeypatch):
    """Train the public extractor once for all repetitions: it depends on public writers only."""
    kept = []

    def prepare(experiment, dataset, progress):
        if not kept:
            kept.append(prepare_features(experiment, dataset, progress))
        return kept[0]

    monkeypatch.setattr(fedunlearn.simulation.world, "prepare_features", prepare)


def test_newton_forgets_a_writer_with_a_valid_certificate_in_every_one_of_twenty_repetitions(
    femnist_npz, one_extractor
):
    gaps, times, messages = [], [], []
    for repetition in range(20):
        changes = [
            f"seed={repetition}",
            f"requests.0.client={(37 * repetition + 11) % 100}",
            "evaluation.controls=false",
        ]
        experiment = load_experiment(SIMULATIONS / "femnist_newton.toml", [*changes, "runtime.cache=false"])
        summary = run_local(experiment).summary
        (request,) = summary["requests"]
        certificate = request["certificate"]
        assert certificate["valid"] and (certificate["epsilon"], certificate["delta"]) == (1.0, 1e-5)
        assert request["distance_to_retrained"] <= certificate["sensitivity"] and not request["fell_back_to_retraining"]
        models = summary["models"]
        gaps.append(models["unlearned"]["test_accuracy"] - models["retrained"]["test_accuracy"])
        times.append(request["retrain_cost"]["seconds"] / request["cost"]["seconds"])
        messages.append(request["retrain_cost"]["messages"] / request["cost"]["messages"])
    print(f"gap {np.mean(gaps):+.4f} (largest {np.abs(gaps).max():.4f}), time {np.median(times):.1f}x, "
          f"messages {np.median(messages):.1f}x cheaper")  # fmt: skip
    assert abs(np.mean(gaps)) <= 0.003
    assert np.median(messages) >= 5


def test_the_cnn_network_learns(femnist_npz):
    experiment = load_experiment(SIMULATIONS / "femnist_cnn.toml", ["requests=[]", "runtime.cache=false"])
    original = run_local(experiment).summary["models"]["original"]
    print(f"average model {original['test_accuracy']:.3f}, mean of nodes {original['node_test_accuracy']['mean']:.3f}")
    assert original["test_accuracy"] >= 0.83
    assert original["node_test_accuracy"]["mean"] >= 0.81
