from __future__ import annotations

import json
from dataclasses import asdict

import numpy as np
import pytest

from fedunlearn.evaluation.effects.side_effects import side_effects
from fedunlearn.evaluation.outputs import Answers, Outputs


def _outputs(count: int, clients: int, seed: int, noise: int) -> Outputs:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 4, count)
    logits = 2.0 * (labels[:, None] == np.arange(4)) + np.random.default_rng(noise).normal(size=(count, 4))
    return Outputs(logits, labels, np.arange(count), rng.integers(0, clients, count))


def _answers(models: tuple[str, ...] = ("original", "unlearned", "retrained", "control")) -> Answers:
    sizes = {"forget": (40, 1, 1), "retain": (300, 12, 2), "test": (400, 12, 3)}
    return {
        model: {name: _outputs(n, c, s, 10 * s + k) for name, (n, c, s) in sizes.items()}  # type: ignore[misc]
        for k, model in enumerate(models)
    }


def test_everything_is_there_once_and_the_same_each_time() -> None:
    nodes = {model: np.linspace(0.4, 0.8, 12) for model in ("original", "unlearned", "retrained", "control")}
    found = side_effects(_answers(), node_accuracies=nodes, seed=3)
    names = [measure.name for measure in found.measures]
    assert len(set(names)) == len(names) and not found.refusals
    for start in ("accuracy_loss_similar", "accuracy_loss_forget", "node_", "client_", "calibration_", "streisand_"):
        assert any(name.startswith(start) for name in names), start
    assert all(m.unlearned is not None and m.control is not None for m in found.measures)
    assert {measure.section for measure in found.measures} == {"side effects"}
    json.dumps([asdict(measure) for measure in found.measures], allow_nan=False)
    assert side_effects(_answers(), node_accuracies=nodes, seed=3) == found


def test_without_nodes_and_without_a_control_the_rest_is_told() -> None:
    found = side_effects(_answers(("unlearned", "retrained")), node_accuracies=None)
    assert [refusal.name for refusal in found.refusals] == ["node_accuracy_worst"]
    assert all(measure.control is None and measure.original is None for measure in found.measures)
    with pytest.raises(ValueError, match="lack the model 'retrained'"):
        side_effects(_answers(("original", "unlearned")), node_accuracies=None)
