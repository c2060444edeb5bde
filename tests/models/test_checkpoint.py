"""Checkpoints: written and read back, and every way in which one may not fit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from fedunlearn.errors import UserError
from fedunlearn.models import Model, ModelSettings, build_model, write_checkpoint


def mlp(checkpoint=None) -> Model:
    return build_model(ModelSettings(name="mlp", hidden=(3,), checkpoint=checkpoint and str(checkpoint)), 2, (4,))


def test_named_parameters_round_trip(tmp_path):
    plain = mlp()
    theta = torch.from_numpy(plain.initial(9))
    write_checkpoint(tmp_path / "m.safetensors", plain.parameters_of(theta))
    model = mlp(tmp_path / "m.safetensors")
    assert np.array_equal(model.initial(0), theta.numpy())
    assert np.array_equal(Model.from_spec(model.spec).initial(1), theta.numpy())


def test_a_state_dict_and_a_released_vector_are_read(tmp_path):
    plain = mlp()
    theta = torch.from_numpy(plain.initial(9))
    save_file(dict(reversed(plain.load(plain.module(), theta).state_dict().items())), tmp_path / "s.safetensors")
    save_file({"theta": theta.double()}, tmp_path / "v.safetensors")
    for name in ("s.safetensors", "v.safetensors"):
        assert np.array_equal(mlp(tmp_path / name).initial(0), theta.numpy())


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"theta": torch.zeros(22)}, r"holds a vector of shape \(22,\), but this model has 23 parameters"),
        ({"0.weight": torch.zeros(3, 4)}, "lacks 0.bias, 2.weight, 2.bias; allowed"),
        (
            {
                "0.weight": torch.zeros(3, 4),
                "0.bias": torch.zeros(3),
                "2.weight": torch.zeros(2, 3),
                "head": torch.zeros(2),
            },
            "lacks 2.bias and has the unknown head",
        ),
        (
            {
                "0.weight": torch.zeros(3, 5),
                "0.bias": torch.zeros(3),
                "2.weight": torch.zeros(2, 3),
                "2.bias": torch.zeros(2),
            },
            r"parameter '0.weight' has shape \(3, 5\), but this model needs \(3, 4\)",
        ),
        ({"theta": torch.zeros(23, dtype=torch.int64)}, "not floating-point"),
        ({"theta": torch.full((23,), float("nan"))}, "not finite"),
    ],
)
def test_what_does_not_fit_gets_one_sentence(tmp_path, tensors, message):
    save_file(tensors, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match=message) as error:
        mlp(tmp_path / "m.safetensors")
    assert "model.checkpoint" in str(error.value) and "m.safetensors" in str(error.value)


def test_missing_broken_and_changed_files(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        mlp(tmp_path / "none.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"not a checkpoint")
    with pytest.raises(UserError, match="not a readable safetensors file"):
        mlp(tmp_path / "broken.safetensors")
    save_file({"theta": torch.zeros(23)}, tmp_path / "m.safetensors")
    model = mlp(tmp_path / "m.safetensors")
    save_file({"theta": torch.ones(23)}, tmp_path / "m.safetensors")
    with pytest.raises(UserError, match="has changed"):
        model.initial(0)
