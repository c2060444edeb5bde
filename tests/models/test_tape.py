"""The tape against autograd: the same gradients for every layer, in both layouts, and nothing left behind."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedunlearn.models import Model, ModelSettings, build_model
from fedunlearn.models.tape import tape_of

OWN = "tests.models.user_modules"
CLASSES = 5


def made(name: str, shape: tuple[int, ...], activation: str = "relu") -> Model:
    return build_model(ModelSettings(name=name, activation=activation, hidden=(7, 6)), CLASSES, shape)


def batch(model: Model, count: int, dtype: torch.dtype, levels: int = 4, seed: int = 0):
    """Return a batch of few grey levels: in most pooling windows the largest number stands more than once."""
    rng = np.random.default_rng(seed)
    pixels = (rng.integers(0, levels, (count, *model.input_shape)) * (255 // (levels - 1))).astype(np.uint8)
    return model.prepare(pixels).to(dtype), torch.from_numpy(rng.integers(0, CLASSES, count))


def by_autograd(model: Model, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    module = model.load(model.module().to(theta.dtype), theta).train()
    F.cross_entropy(module(x), y).backward()
    return torch.cat([p.grad.reshape(-1) for p in module.parameters()])


def by_tape(model: Model, theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor, **options) -> torch.Tensor:
    gradient = torch.full_like(theta, float("nan"))  # every entry must be written
    tape = tape_of(model, theta, gradient, **options)
    assert tape is not None
    tape.differentiate(x, y)
    return gradient


MODELS = [
    ("small-cnn", (9, 11)),
    ("deep-cnn", (13, 10, 3)),
    ("leaf-cnn", (6, 5)),
    ("mlp", (4, 5)),
    ("softmax", (4, 5)),
    (f"{OWN}:Unusual", (11, 8, 2)),
    (f"{OWN}:Vector", (12,)),
]


@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("activation", ["relu", "smelu"])
@pytest.mark.parametrize(("name", "shape"), MODELS)
def test_in_float64_the_tape_is_autograd(name, shape, activation, count):
    model = made(name, shape, activation)
    theta = torch.from_numpy(model.initial(1)).double() + 0.01
    x, y = batch(model, count, torch.float64)
    gap = (by_tape(model, theta, x, y) - by_autograd(model, theta, x, y)).abs().max()
    assert gap < 1e-15


@pytest.mark.parametrize("blocked", [False, True])
@pytest.mark.parametrize("count", [1, 6])
@pytest.mark.parametrize("activation", ["relu", "smelu"])
@pytest.mark.parametrize(("name", "shape"), MODELS)
def test_in_float32_both_layouts_agree_with_autograd(name, shape, activation, count, blocked):
    model = made(name, shape, activation)
    theta = torch.from_numpy(model.initial(1)) + 0.01
    x, y = batch(model, count, torch.float32)
    expected = by_autograd(model, theta, x, y)
    gap = (by_tape(model, theta, x, y, blocked=blocked) - expected).abs().max()
    assert gap < 1e-6 * expected.abs().max()


@pytest.mark.parametrize("blocked", [False, True])
def test_of_equal_numbers_the_first_in_the_window_is_the_maximum(blocked):
    # Without weights a convolution gives its bias everywhere: all four numbers of every window are equal.
    model = made("small-cnn", (8, 8))
    theta = torch.from_numpy(model.initial(1))
    model.parameters_of(theta)["0.weight"].zero_()
    model.parameters_of(theta)["0.bias"].fill_(0.5)
    x, y = batch(model, 3, torch.float32, levels=200)
    found = model.parameters_of(by_tape(model, theta, x, y, blocked=blocked))

    module = model.load(model.module(), theta)
    pooled = torch.full((3, 16, 4, 4), 0.5, requires_grad=True)
    F.cross_entropy(module[2:](pooled), y).backward()
    corner = F.pad(x, (1, 1, 1, 1))
    for row in range(3):
        for column in range(3):
            first = corner[:, 0, row : row + 8 : 2, column : column + 8 : 2]  # what the window's first output read
            expected = torch.einsum("ncij,nij->c", pooled.grad, first)
            assert torch.allclose(found["0.weight"][:, 0, row, column], expected, atol=1e-6)


@pytest.mark.parametrize("name", ["small-cnn", "mlp"])
def test_the_strides_of_the_inputs_do_not_matter(name):
    model = made(name, (9, 11))
    theta = torch.from_numpy(model.initial(1))
    x, y = batch(model, 6, torch.float32)
    spread = torch.zeros(6, *x.shape[1:-1], 3 * x.shape[-1])[..., ::3]
    spread.copy_(x)
    assert torch.allclose(by_tape(model, theta, spread, y), by_tape(model, theta, x, y), atol=1e-7)


def test_an_empty_batch_has_gradient_zero():
    model = made("small-cnn", (8, 8))
    theta = torch.from_numpy(model.initial(1))
    x, y = batch(model, 2, torch.float32)
    assert not by_tape(model, theta, x[:0], y[:0]).any()


def test_a_divisor_of_ones_own():
    model = made("small-cnn", (8, 8))
    theta, gradient = torch.from_numpy(model.initial(1)), torch.zeros(model.dim)
    x, y = batch(model, 6, torch.float32)
    tape = tape_of(model, theta, gradient)
    tape.differentiate(x, y, 24)
    assert torch.allclose(4 * gradient, by_tape(model, theta, x, y), atol=1e-7)


def test_the_tape_follows_the_vector_it_was_made_for():
    model = made("small-cnn", (8, 8))
    theta, gradient = torch.from_numpy(model.initial(1)), torch.zeros(model.dim)
    x, y = batch(model, 6, torch.float32)
    tape = tape_of(model, theta, gradient)
    tape.differentiate(x, y)
    theta.sub_(0.1 * gradient)
    tape.differentiate(x, y)
    assert torch.equal(gradient, by_tape(model, theta.clone(), x, y))


def test_nothing_of_a_batch_stays_behind():
    model = made("small-cnn", (8, 8))
    tape = tape_of(model, torch.from_numpy(model.initial(1)), torch.zeros(model.dim))
    x, y = batch(model, 6, torch.float32)
    gc.collect()
    before = {id(o) for o in gc.get_objects() if type(o) is torch.Tensor}
    inputs = weakref.ref(x)
    tape.differentiate(x, y)
    del x
    assert inputs() is None
    assert [o for o in gc.get_objects() if type(o) is torch.Tensor and id(o) not in before] == []


def test_an_erased_label_is_an_error():
    model = made("small-cnn", (8, 8))
    tape = tape_of(model, torch.from_numpy(model.initial(1)), torch.zeros(model.dim))
    x, y = batch(model, 3, torch.float32)
    y[1] = -1
    with pytest.raises((RuntimeError, IndexError)):
        tape.differentiate(x, y)


@pytest.mark.parametrize(
    "name",
    ["resnet18-gn", *(f"{OWN}:{own}" for own in ("Good", "Tied", "Twice", "Hooked", "Mirrored", "Same", "Other"))],
)
def test_what_is_no_plain_chain_has_no_tape(name):
    model = made(name, (8, 8, 3))
    assert tape_of(model, torch.zeros(model.dim), torch.zeros(model.dim)) is None
