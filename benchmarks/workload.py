"""The yardstick's work, the same for everybody who is measured: data, graph, models, and how much arithmetic that is.

32 clients x 200 samples (28x28, 62 classes, synthetic), random 4-regular graph, rounds of one local epoch at batch 32
with SGD 0.05, then one averaging with Metropolis-Hastings weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fedunlearn.data import FederatedDataset

CLIENTS, SAMPLES, CLASSES, SEED = 32, 200, 62, 7
BATCH, LR, DEGREE = 32, 0.05, 4
MODELS = ("small-cnn", "mlp", "softmax")

_FORWARD = {
    "small-cnn": (28 * 28 * 16 * 9, 14 * 14 * 32 * 16 * 9, 7 * 7 * 32 * 128, 128 * CLASSES),
    "mlp": (784 * 128, 128 * CLASSES),
    "softmax": (784 * CLASSES,),
}
"""Multiply-accumulates of one sample's forward pass, layer by layer; biases, pooling and activations not counted."""


def forward_macs(model: str) -> int:
    """Return the multiply-accumulates of the forward pass of one sample."""
    return sum(_FORWARD[model])


def training_macs(model: str) -> int:
    """Return those of one sample's training step: forward, weight gradients, and input gradients but the first."""
    return 3 * forward_macs(model) - _FORWARD[model][0]


def flop_of_update(model: str, samples: int = SAMPLES) -> int:
    """Return the floating-point operations of one client update, one local epoch over ``samples`` samples."""
    return 2 * training_macs(model) * samples


def updates_at(gflops: float, model: str) -> float:
    """Return how many client updates a second matrix products at ``gflops`` (10^9 operations a second) would allow."""
    return gflops * 1e9 / flop_of_update(model)


def dataset(clients: int = CLIENTS, samples: int = SAMPLES) -> FederatedDataset:
    """Return the synthetic data set: prototypes plus noise as bytes, 8 classes a client."""
    import numpy as np

    from fedunlearn.data import FederatedDataset, Role

    rng = np.random.default_rng(SEED)
    prototypes = rng.normal(size=(CLASSES, 28, 28))
    own = np.stack([rng.choice(CLASSES, 8, replace=False) for _ in range(clients)])
    labels = own[np.arange(clients)[:, None], rng.integers(0, 8, (clients, samples))]
    images = prototypes[labels] * 0.5 + rng.normal(size=(clients, samples, 28, 28))
    pixels = np.clip(images * 32 + 128, 0, 255).astype(np.uint8).reshape(-1, 28, 28)
    return FederatedDataset(
        name="yardstick",
        inputs=pixels,
        labels=labels.reshape(-1).astype(np.int64),
        offsets=np.arange(clients + 1, dtype=np.int64) * samples,
        is_test=np.zeros(clients * samples, dtype=bool),
        roles=np.full(clients, Role.TRAIN, dtype=np.uint8),
        client_names=tuple(f"client {i}" for i in range(clients)),
        class_names=tuple(str(i) for i in range(CLASSES)),
        provenance="generated: prototypes plus noise",
        synthetic=True,
    )


def graph(clients: int = CLIENTS) -> Any:
    """Return the random regular graph; smaller than the degree allows, the complete one (for tests)."""
    from fedunlearn.topology import TopologySettings, build_graph

    return build_graph(TopologySettings(generator="random-regular", degree=min(DEGREE, clients - 1)), clients, SEED)


def show(figures: Mapping[str, Any], as_json: bool) -> None:
    """Print figures as one JSON line, or a line each."""
    if as_json:
        print(json.dumps(figures))
        return
    for key, value in figures.items():
        print(f"{key:24} {value}")
