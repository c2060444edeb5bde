"""The flat-vector view: counts, views, starts, specs, inputs, vmap, and modules of one's own."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import grad, vmap

from fedunlearn.errors import UserError
from fedunlearn.models import Model, ModelSettings, build_model
from fedunlearn.models.activations import SmeLU, activation

GREY, COLOUR = (28, 28), (32, 32, 3)


def model_of(name: str, classes: int = 5, shape: tuple[int, ...] = (8, 8), **settings) -> Model:
    return build_model(ModelSettings(name=name, **settings), classes, shape)


@pytest.mark.parametrize(
    ("name", "classes", "shape", "dim"),
    [
        ("softmax", 62, GREY, 62 * 785),
        ("mlp", 62, GREY, 785 * 128 + 129 * 62),
        ("small-cnn", 62, GREY, 213_630),
        ("deep-cnn", 64, GREY, 24 * 10 + 48 * 217 + 96 * 433 + 64 * 865),
        ("leaf-cnn", 62, GREY, 6_603_710),
        ("resnet18-gn", 10, COLOUR, 11_173_962),
    ],
)
def test_parameter_counts(name, classes, shape, dim):
    model = model_of(name, classes, shape)
    assert model.dim == dim
    assert model.takes_images == (name not in ("softmax", "mlp"))
    assert model.convex == (name == "softmax")


def test_softmax_has_a_bias_on_raw_inputs_only():
    assert model_of("softmax", shape=(65,), features="frozen").dim == 5 * 65
    assert model_of("softmax", shape=(65,), features="unit").dim == 5 * 65
    assert model_of("softmax", shape=(65,), features="raw").dim == 5 * 66


@pytest.mark.parametrize("name", ["softmax", "mlp", "small-cnn", "resnet18-gn"])
@pytest.mark.parametrize("act", ["relu", "smelu"])
def test_logits_are_those_of_the_module(name, act):
    model = model_of(name, activation=act)
    theta = torch.randn(model.dim, generator=torch.Generator().manual_seed(1)) * 0.1
    x = model.prepare(np.random.default_rng(0).integers(0, 256, (3, 8, 8), dtype=np.uint8))
    module = model.load(model.module(), theta)
    torch.testing.assert_close(model.logits(theta, x), module(x), atol=1e-5, rtol=1e-5)
    assert torch.equal(model.vector_of(module), theta)
    assert model.logits(theta.double(), x).dtype == torch.float64


def test_parameters_of_gives_views_in_the_order_of_the_module():
    model = model_of("mlp", hidden=(3, 2))
    theta = torch.arange(model.dim, dtype=torch.float32)
    views = model.parameters_of(theta)
    assert [tuple(v.shape) for v in views.values()] == [(3, 64), (3,), (2, 3), (2,), (5, 2), (5,)]
    assert list(views) == [name for name, _ in model.module().named_parameters()]
    views["0.bias"][1] = -1.0
    assert theta[3 * 64 + 1] == -1.0


def test_initial_depends_on_the_seed_alone():
    model = model_of("mlp")
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    first = model.initial(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(8)
    assert np.array_equal(first, model_of("mlp").initial(3))
    assert not np.array_equal(first, model.initial(4))
    assert first.dtype == np.float32
    assert not model_of("softmax").initial(3).any()


@pytest.mark.parametrize("name", ["softmax", "mlp", "small-cnn", "resnet18-gn"])
def test_vmap_over_models_equals_one_model_at_a_time(name):
    model = model_of(name, shape=(4, 4))
    rows = torch.from_numpy(np.stack([model.initial(s) for s in range(3)]))
    rows = rows + 0.01 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    x, y = torch.rand((3, 2, *((1, 4, 4) if model.takes_images else (16,)))), torch.tensor([[0, 1], [2, 3], [4, 0]])

    def loss(theta, a, b):
        return F.cross_entropy(model.logits(theta, a), b)

    stacked = vmap(grad(loss))(rows, x, y)
    for i in range(3):
        torch.testing.assert_close(stacked[i], grad(loss)(rows[i], x[i], y[i]), atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("act", ["relu", "smelu"])
def test_pooling_commutes_with_the_activation(act):
    x = torch.randn((2, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    f, pool = activation(act, 0.7), nn.MaxPool2d(2)
    assert torch.equal(f(pool(x)), pool(f(x)))


def test_small_cnn_equals_the_textbook_order_of_layers():
    model = model_of("small-cnn", 62, GREY)
    theta = torch.from_numpy(model.initial(0))
    p = list(model.parameters_of(theta).values())
    x = torch.rand((2, 1, 28, 28))
    h = F.max_pool2d(F.relu(F.conv2d(x, p[0], p[1], padding=1)), 2)
    h = F.max_pool2d(F.relu(F.conv2d(h, p[2], p[3], padding=1)), 2)
    expected = F.linear(F.relu(F.linear(h.flatten(1), p[4], p[5])), p[6], p[7])
    torch.testing.assert_close(model.logits(theta, x), expected)


def test_smelu_by_cases_and_its_slope():
    x = torch.tensor([-2.0, -0.5, -0.25, 0.0, 0.25, 0.5, 2.0], dtype=torch.float64, requires_grad=True)
    y = SmeLU(0.5)(x)
    torch.testing.assert_close(y, torch.tensor([0.0, 0.0, 0.03125, 0.125, 0.28125, 0.5, 2.0], dtype=torch.float64))
    (slope,) = torch.autograd.grad(y.sum(), x)
    torch.testing.assert_close(slope[1:6], torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0], dtype=torch.float64))
    with pytest.raises(ValueError, match="positive"):
        SmeLU(0.0)
    with pytest.raises(ValueError, match="swish"):
        activation("swish")


def test_prepare_scales_bytes_and_puts_channels_first():
    image = np.zeros((1, 8, 8, 3), dtype=np.uint8)
    image[0, 2, 5, 1] = 51
    x = model_of("small-cnn", shape=(8, 8, 3)).prepare(image)
    assert x.shape == (1, 3, 8, 8) and x.dtype == torch.float32 and x[0, 1, 2, 5] == np.float32(51 / 255)
    flat = model_of("softmax", shape=(8, 8, 3)).prepare(image)
    assert flat.shape == (1, 192) and flat[0, (2 * 8 + 5) * 3 + 1] == np.float32(51 / 255)
    assert model_of("mlp").prepare(np.zeros((0, 8, 8), dtype=np.uint8)).shape == (0, 64)


def test_prepare_passes_rows_through_and_leaves_read_only_arrays_alone():
    rows = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    rows.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        x = model_of("softmax", shape=(6,)).prepare(rows)
    assert np.array_equal(x.numpy(), rows)
    x += 1.0
    assert not np.array_equal(x.numpy(), rows)


@pytest.mark.usefixtures("_own")
def test_spec_round_trip_in_json():
    for name in ("softmax", "mlp", "small-cnn", "user_modules:Good"):
        model = model_of(name, activation="smelu", hidden=(7,))
        again = Model.from_spec(json.loads(json.dumps(model.spec)))
        assert again.shapes == model.shapes and again.spec == model.spec
        assert np.array_equal(again.initial(5), model.initial(5))


def test_images_are_asked_for_by_name_where_there_are_only_vectors():
    with pytest.raises(
        UserError, match=r"model\.name = 'small-cnn' takes images, but .* vector of 65 numbers; allowed .*mlp"
    ):
        model_of("small-cnn", shape=(65,), features="frozen")
    with pytest.raises(UserError, match="at least 4 x 4"):
        model_of("small-cnn", shape=(3, 28))


@pytest.fixture
def _own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.mark.usefixtures("_own")
class TestOwnModule:
    """Modules named by import path."""

    def test_good_ones_work(self):
        model = model_of("user_modules:Good", shape=(8, 8, 3))
        assert model.takes_images and not model.convex and model.dim == 3 * 9 * 4 + 4 + 25
        theta = torch.from_numpy(model.initial(0))
        assert model.logits(theta, torch.rand(2, 3, 8, 8)).shape == (2, 5)
        assert model.logits(theta.double(), torch.rand(2, 3, 8, 8)).dtype == torch.float64
        assert model_of("user_modules:Vector", shape=(6,)).dim == 35

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("user_modules:BatchNormed", "training changes the buffers 2.running_mean.*GroupNorm"),
            ("user_modules:Dropped", "random outputs in training mode"),
            ("user_modules:Unmapped", "does not work under torch.func.vmap"),
            ("user_modules:Frozen", "parameter '1.bias' must be float32 and trainable"),
            ("user_modules:WrongShape", r"must return logits \(batch, 5\), but gave \(3, 6\)"),
            ("user_modules:not_a_module", "gives a int, but a torch.nn.Module is needed"),
            ("user_modules:Missing", "there is no 'Missing' in the module 'user_modules'"),
            ("no_such_package.here:Net", "cannot be imported"),
        ],
    )
    def test_bad_ones_get_one_sentence(self, name, message):
        with pytest.raises(UserError, match=message) as error:
            model_of(name)
        assert f"model.name = '{name}'" in str(error.value) and "\n" not in str(error.value)


def test_own_module_from_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "mine_here.py").write_text(
        "from torch import nn\ndef net(input_shape, num_classes):\n    return nn.Linear(2, num_classes)\n"
    )
    monkeypatch.chdir(tmp_path)
    assert model_of("mine_here:net", shape=(2,)).dim == 15
