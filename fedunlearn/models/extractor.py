"""Train a feature extractor and a softmax head on public samples only."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from fedunlearn.errors import UserError
from fedunlearn.models import augmentation, softmax
from fedunlearn.models.model import Model, channels_last
from fedunlearn.models.settings import ModelSettings
from fedunlearn.randomness import generator, torch_seed

Progress = Callable[[str, int, int], None]

COSINE_SCALE = 16.0
"""Factor of the cosines that serve as logits while the extractor is trained."""
_MOMENTUM = 0.9
_WEIGHT_DECAY = 5e-4
_WARM_UP = 0.1
"""Share of the steps in which the learning rate rises, before it falls along a cosine."""


def build_extractor(settings: ModelSettings, input_shape: tuple[int, ...]) -> Model:
    """Return the extractor's network: a model of this room whose ``extractor_width`` outputs are the features.

    UserError, naming ``model.extractor``, when it does not fit samples of ``input_shape``.
    """
    spec = {
        "name": settings.extractor,
        "num_classes": settings.extractor_width,
        "input_shape": list(input_shape),
        "bias": True,
        "activation": settings.activation,
        "smelu_width": settings.smelu_width,
        "hidden": list(settings.hidden),
        "checkpoint": None,
        "checkpoint_sha256": None,
    }
    try:
        return Model(spec)
    except UserError as error:
        raise UserError(str(error).replace("model.name", "model.extractor")) from None


def train_network(
    model: Model,
    inputs: NDArray[Any],
    labels: NDArray[np.int64],
    num_classes: int,
    settings: ModelSettings,
    seed: int,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Return extractor parameters (dim,) float32 fitted to public samples ``inputs`` (m, ...), ``labels`` (m,).

    The head that is trained along is the one the features will be used with: the cosines between the feature vector and
    one vector a class, times a constant (the "normalised softmax"). Stochastic gradient descent with Nesterov momentum;
    images are distorted anew in every epoch. The result depends on the arguments only. UserError when there are fewer
    samples than one batch, or when training diverges.
    """
    batch, epochs = settings.extractor_batch, settings.extractor_epochs
    if len(labels) < batch:
        raise UserError(
            f"model.extractor_batch = {batch} is more than the {len(labels)} public training samples; "
            "lower it, or name more data.public_clients"
        )
    steps_per_epoch = len(labels) // batch
    steps, step = epochs * steps_per_epoch, 0
    x, y = model.prepare(inputs), torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64))
    augment = settings.extractor_augment and x.dim() == 4
    with one_thread():
        trunk = _random_start(model, seed)
        if x.dim() == 4:
            trunk.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        classes = generator(seed, "extractor-head").normal(size=(num_classes, model.num_classes)).astype(np.float32)
        head = nn.Parameter(torch.from_numpy(classes / math.sqrt(model.num_classes)))
        optimiser = torch.optim.SGD(
            [*trunk.parameters(), head], lr=0.0, momentum=_MOMENTUM, weight_decay=_WEIGHT_DECAY, nesterov=True
        )
        for epoch in range(epochs):
            draws = generator(seed, "extractor-epoch", epoch)
            order = torch.from_numpy(draws.permutation(len(labels)))
            bends = torch.from_numpy(augmentation.draw(draws, len(labels))) if augment else None
            for part in order[: steps_per_epoch * batch].split(batch):
                images = x[part]
                if bends is not None:
                    images = augmentation.distort(images, bends[part])
                if images.dim() == 4:
                    images = channels_last(images.permute(0, 2, 3, 1))
                optimiser.param_groups[0]["lr"] = settings.extractor_lr * _schedule(step / steps)
                features = F.normalize(trunk(images), dim=1)
                loss = F.cross_entropy(COSINE_SCALE * F.linear(features, F.normalize(head, dim=1)), y[part])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                step += 1
            if not math.isfinite(float(loss.detach())):
                raise UserError(
                    f"model.extractor_lr = {settings.extractor_lr} made the training of the extractor diverge; lower it"
                )
            if progress is not None:
                progress("extractor", epoch + 1, epochs)
        return model.vector_of(trunk).contiguous().numpy()


def fit_head(
    rows: NDArray[np.float32], labels: NDArray[np.int64], num_classes: int, lam: float, max_iterations: int = 1000
) -> NDArray[np.float64]:
    """Return the softmax head (num_classes * p,) float64 of feature rows (m, p), without bias.

    It minimises the mean loss plus ``(lam/2)||theta||^2`` by L-BFGS, from zero, up to a gradient norm of about 1e-7.
    """
    from scipy.optimize import minimize  # takes longer to load than all of scipy that a worker needs

    a, y = torch.from_numpy(rows.astype(np.float64)), torch.from_numpy(np.ascontiguousarray(labels, dtype=np.int64))

    def objective(theta: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        t = torch.from_numpy(theta)
        loss = F.cross_entropy(a @ t.reshape(num_classes, -1).T, y)
        gradient = softmax.gradient(t, a, y, num_classes).numpy() / len(y)
        return float(loss) + 0.5 * lam * float(theta @ theta), gradient + lam * theta

    with one_thread():
        found = minimize(
            objective,
            np.zeros(num_classes * rows.shape[1]),
            jac=True,
            method="L-BFGS-B",
            options={"maxiter": max_iterations, "maxfun": 2 * max_iterations, "maxcor": 20, "gtol": 1e-8, "ftol": 0.0},
        )
    return np.asarray(found.x, dtype=np.float64)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread: the order of a sum, and so its last bits, may depend on their number."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _random_start(model: Model, seed: int) -> nn.Module:
    """Return the network with He-normal weights (He et al. 2015) and zero biases in linear and convolutional layers.

    Torch's own initialisation shrinks the signal until biases outweigh it: the cosines of all samples start out at
    nearly one, and many epochs pass before they differ.
    """
    network = model.load(model.module(), torch.from_numpy(model.initial(seed)))
    draws = torch.Generator().manual_seed(torch_seed(seed, "extractor-start"))
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=draws)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    return network


def _schedule(done: float) -> float:
    """Return the factor of the learning rate after a share ``done`` of all steps."""
    return min(1.0, done / _WARM_UP) * 0.5 * (1.0 + math.cos(math.pi * done))
