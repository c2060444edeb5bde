from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedunlearn.evaluation.effects.relearn import (
    ALPHA,
    INDEX,
    MEAN,
    TIME,
    TOLERANCE,
    crossing,
    measured_steps,
    minibatches,
    relearn,
    relearning_of,
)  # fmt: skip
from fedunlearn.evaluation.measure import Found, Measure
from fedunlearn.models import Model, ModelSettings, build_model


def _line(found: Found, name: str) -> Measure:
    return next(measure for measure in found.measures if measure.name == name)


def _softmax() -> tuple[Model, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(30, 5)).astype(np.float32)
    model = build_model(ModelSettings(name="softmax", features="raw"), 3, (5,))
    return model, x, rng.integers(0, 3, 30)


def _by_torch(model: Model, theta: np.ndarray, x: torch.Tensor, y: torch.Tensor, lr: float, plan: list) -> list[float]:
    """Relearn with torch's own optimiser, module and loss, in float64, and measure after every step."""
    module = model.load(model.module(), theta).double()
    optimiser = torch.optim.SGD(module.parameters(), lr=lr)
    losses = []
    for positions in [None, *plan]:
        if positions is not None:
            optimiser.zero_grad()
            F.cross_entropy(module(x[positions]), y[positions]).backward()
            optimiser.step()
        with torch.no_grad():
            losses.append(float(F.cross_entropy(module(x), y)))
    return losses


def test_curves_are_those_of_torchs_optimiser_for_softmax() -> None:
    model, x, y = _softmax()
    rng = np.random.default_rng(2)
    vectors = {name: rng.normal(size=model.dim).astype(np.float32) for name in ("original", "unlearned", "retrained")}
    found = relearn(model, vectors, x, y, lr=0.3, batch=8, steps=12, seed=5)
    plan = minibatches(30, 8, 12, 5)
    curve = found.curves["relearning"]
    assert curve["steps"] == list(range(13))
    for name, theta in vectors.items():
        truth = _by_torch(model, theta, torch.from_numpy(x).double(), torch.from_numpy(y), 0.3, plan)
        np.testing.assert_allclose(curve["loss"][name], truth, rtol=1e-12)
    assert curve["target_loss"] == pytest.approx((1 + ALPHA) * curve["loss"]["original"][0] + TOLERANCE)


@pytest.mark.parametrize("tape", [True, False])
@pytest.mark.parametrize("name", ["small-cnn", "mlp"])
def test_curves_are_those_of_torchs_optimiser_for_images(
    name: str, tape: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the written-out gradient, and by differentiation, as for models that are no plain chain of layers."""
    if not tape:
        monkeypatch.setattr("fedunlearn.evaluation.effects.relearn.tape_of", lambda *_: None)
    rng = np.random.default_rng(3)
    images, y = rng.integers(0, 256, (20, 16, 16)).astype(np.uint8), rng.integers(0, 4, 20)
    model = build_model(ModelSettings(name=name, features="raw"), 4, (16, 16))
    vectors = {kind: model.initial(i) for i, kind in enumerate(("original", "unlearned", "retrained"))}
    found = relearn(model, vectors, images, y, lr=0.05, batch=6, steps=5, seed=5)
    inputs = model.prepare(images).double()
    for kind, theta in vectors.items():
        truth = _by_torch(model, theta, inputs, torch.from_numpy(y), 0.05, minibatches(20, 6, 5, 5))
        np.testing.assert_allclose(found.curves["relearning"]["loss"][kind], truth, rtol=2e-4)


def test_a_model_that_remembers_is_faster_and_the_control_is_near_one() -> None:
    """Random labels must be remembered: the original fitted them; the unlearned one is a short way from it."""
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(20, 40)).astype(np.float32), rng.integers(0, 4, 20)
    model = build_model(ModelSettings(name="softmax", features="raw"), 4, (40,))
    tensors = torch.from_numpy(x).double(), torch.from_numpy(y)
    module = model.load(model.module(), model.initial(0)).double()
    optimiser = torch.optim.SGD(module.parameters(), lr=1.0)
    for _ in range(200):
        optimiser.zero_grad()
        F.cross_entropy(module(tensors[0]), tensors[1]).backward()
        optimiser.step()
    original = model.vector_of(module).numpy()
    retrained, control = 0.01 * rng.normal(size=(2, model.dim))
    vectors = {"original": original, "unlearned": 0.8 * original, "retrained": retrained, "control": control}
    found = relearn(model, vectors, x, y, lr=0.5, batch=8, steps=400, seed=0)
    index, times = _line(found, INDEX), _line(found, TIME)
    assert index.unlearned is not None and index.control is not None and times.retrained is not None
    assert index.unlearned.value < 0.9 and abs(index.control.value - 1) < 0.05
    assert times.original is not None and times.original.value == 0 and times.retrained.value > 5
    assert not found.refusals
    again = relearn(model, vectors, x, y, lr=0.5, batch=8, steps=400, seed=0)
    assert again == found
    other = relearn(model, vectors, x, y, lr=0.5, batch=8, steps=400, seed=1)
    assert other.curves["relearning"]["loss"]["retrained"] != found.curves["relearning"]["loss"]["retrained"]


def test_times_and_index_by_hand() -> None:
    """Target 1.1 * 1 + 0.01 = 1.11: losses fall from 3 by 1 a step (unlearned), by half a step's worth (retrained)."""
    losses = {
        "original": [1.0, 0.5, 0.2, 0.1, 0.1],
        "unlearned": [3.0, 2.0, 1.0, 0.5, 0.2],
        "retrained": [3.0, 2.5, 2.0, 1.5, 1.0],
        "control": [3.0, 2.75, 2.5, 2.0, 1.11],
    }
    found = relearning_of(range(5), losses, 7)
    times, index, mean = (_line(found, name) for name in (TIME, INDEX, MEAN))
    assert times.unlearned is not None and times.retrained is not None and times.control is not None
    assert times.unlearned.value == pytest.approx(1.89) and times.retrained.value == pytest.approx(3.78)
    assert times.control.value == pytest.approx(4.0) and times.samples == {"forget": 7}
    assert index.unlearned is not None and index.unlearned.value == pytest.approx(1.89 / 3.78)
    assert index.control is not None and index.control.value == pytest.approx(4 / 3.78)
    assert index.original is not None and index.original.value == 0 and index.retrained is None
    assert mean.unlearned is not None and mean.unlearned.value == pytest.approx((1.5 + 2 + 1 + 0.5 + 0.1) / 4)


def test_what_was_not_reached_is_one_sided() -> None:
    never = [3.0, 2.9, 2.8]
    reached = [3.0, 2.0, 1.0]
    base = {"original": [1.0, 0.9, 0.8]}

    def reasons(**losses: list[float]) -> str:
        found = relearning_of([0, 1, 2], {**base, **losses}, 3)
        assert INDEX not in [measure.name for measure in found.measures]
        assert MEAN in [measure.name for measure in found.measures]
        return " / ".join(refusal.reason for refusal in found.refusals if refusal.name == INDEX)

    assert "above 1.06" in reasons(unlearned=never, retrained=reached)  # 2 / 1.89
    assert "below 0.945" in reasons(unlearned=reached, retrained=never)
    assert "neither" in reasons(unlearned=never, retrained=never)
    assert "before any step" in reasons(unlearned=reached, retrained=[1.05, 1.0, 0.9])
    times = relearning_of([0, 1, 2], {**base, "unlearned": never, "retrained": reached}, 3)
    assert _line(times, TIME).unlearned is None


def test_a_divergence_is_told_and_no_number() -> None:
    losses = {"original": [0.0, 0.0], "unlearned": [2.0, float("nan")], "retrained": [2.0, 0.0]}
    found = relearning_of([0, 1], losses, 3)
    assert any("the unlearned model diverged" in refusal.reason for refusal in found.refusals)
    assert found.curves["relearning"]["loss"]["unlearned"] == [2.0, None]
    assert [measure.name for measure in found.measures] == [TIME]


def test_an_original_without_loss_still_has_a_target() -> None:
    assert crossing([0, 1], [1.0, 0.005], TOLERANCE) == pytest.approx(0.99 / 0.995)
    assert crossing([0, 4], [0.5, 0.1], 0.05) is None


def test_measured_steps_rise_to_the_last() -> None:
    for steps in (1, 16, 17, 100, 1000):
        marks = measured_steps(steps)
        assert marks[0] == 0 and marks[-1] == steps and (np.diff(marks) > 0).all()
        assert (np.diff(marks) <= np.maximum(1, np.array(marks[:-1]) / 8)).all()
    assert len(measured_steps(100)) < 40


def test_minibatches_pass_over_all_samples_in_new_orders() -> None:
    plan = minibatches(10, 4, 7, seed=1)
    assert [len(batch) for batch in plan] == [4, 4, 2, 4, 4, 2, 4]
    first, second = np.concatenate(plan[:3]), np.concatenate(plan[3:6])
    assert sorted(first) == sorted(second) == list(range(10)) and list(first) != list(second)


def test_mistakes_of_the_program_are_named() -> None:
    model, x, y = _softmax()
    theta = model.initial(0)
    with pytest.raises(ValueError, match="lacks the model 'retrained'"):
        relearn(model, {"original": theta, "unlearned": theta}, x, y, lr=1.0, batch=4, steps=2, seed=0)
    with pytest.raises(ValueError, match="needs samples"):
        relearn(model, {}, x[:0], y[:0], lr=1.0, batch=4, steps=2, seed=0)
