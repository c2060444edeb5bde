"""The network's objective once more, from its formula, in one place: plain numpy on dense matrices."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.data import FederatedDataset, Role
from fedunlearn.models import FeatureMap

Shard = tuple[NDArray[np.float64], NDArray[np.int64]]
"""Rows (n_i, q) and labels (n_i,) of one client."""


def shards(dataset: FederatedDataset, features: FeatureMap, deleted: Any = ()) -> list[Shard]:
    """Return what every train client has left; clients without samples are left out."""
    kept = []
    for client in dataset.clients(Role.TRAIN):
        rows = np.setdiff1d(dataset.train_rows(int(client)), np.asarray(deleted, dtype=np.int64))
        if len(rows):
            kept.append((np.asarray(features.apply(dataset.inputs[rows]), dtype=np.float64), dataset.labels[rows]))
    return kept


class Central:
    """``F(W) = sum_z a_z (logsumexp(W a) - (W a)_y) + (lam/2) ||W||^2`` for a softmax head without bias.

    ``weighting``: ``equal`` gives a record of client i the weight ``1/(N n_i)``, ``samples`` the weight ``1/n``; with
    ``counts``, N, n_i and n are taken from there instead of from the shards.
    """

    def __init__(
        self, parts: list[Shard], classes: int, weighting: str, lam: float, counts: list[int] | None = None
    ) -> None:
        counts = counts or [len(y) for _, y in parts]
        self.a = np.concatenate([a for a, _ in parts])
        self.hot = np.eye(classes)[np.concatenate([y for _, y in parts])]
        each = [1 / (len(counts) * c) if weighting == "equal" else 1 / sum(counts) for c in counts]
        self.w = np.repeat(each[: len(parts)], [len(y) for _, y in parts])
        self.classes, self.lam = classes, lam

    def _probabilities(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        z = self.a @ x.reshape(self.classes, -1).T
        z = np.exp(z - z.max(1, keepdims=True))
        return z / z.sum(1, keepdims=True)

    def gradient(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        residual = (self._probabilities(x) - self.hot) * self.w[:, None]
        return (residual.T @ self.a).reshape(-1) + self.lam * x

    def hessian(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        total = self.lam * np.eye(len(x))
        for w, a, p in zip(self.w, self.a, self._probabilities(x)):
            total += w * np.kron(np.diag(p) - np.outer(p, p), np.outer(a, a))
        return total

    def minimiser(self) -> NDArray[np.float64]:
        """Return the minimiser to rounding, by Newton's method with step halving."""
        x = np.zeros(self.classes * self.a.shape[1])
        for _ in range(100):
            g = self.gradient(x)
            if np.linalg.norm(g) < 1e-14:
                break
            step, length = np.linalg.solve(self.hessian(x), g), 1.0
            while np.linalg.norm(self.gradient(x - length * step)) > np.linalg.norm(g) and length > 1e-3:
                length /= 2
            x = x - length * step
        return x
