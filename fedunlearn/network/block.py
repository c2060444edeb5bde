"""What a program sees of a host: its vertices' rows, their retained samples, and the model."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedunlearn.models import Model
from fedunlearn.network.store import Store


class Block:
    """A host's contiguous block of vertices ``low <= id < high``, as every worker of the host sees it.

    Node programs get their samples through :meth:`samples` only, which gives retained samples and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.spec: dict[str, Any] = self.store.read_json("block")
        self.low, self.high = (int(i) for i in self.spec["block"])
        self.num_nodes = int(self.spec["num_nodes"])
        self.device = torch.device(self.spec["device"])
        self.generation = 0

    @cached_property
    def model(self) -> Model:
        """The model all vertices share."""
        return Model.from_spec(self.spec["model"])

    def seed_of(self, population: str) -> int:
        """Return the seed that a population's minibatches are drawn with."""
        return int(self.store[f"seed.{population}"][0])

    @property
    def offsets(self) -> NDArray[np.int64]:
        """(vertices + 1,) first sample of each vertex of the block within the host's sample arrays."""
        return self.store["offsets"]

    def row(self, population: str, node: int) -> Tensor:
        """Return the parameters of a vertex, (d,) float32, as memory shared with the store."""
        return torch.from_numpy(self.store[f"theta.{population}"][node - self.low])

    def momentum(self, population: str, node: int) -> Tensor:
        """Return the momentum of a vertex, (d,) float32, as memory shared with the store."""
        return torch.from_numpy(self.store[f"momentum.{population}"][node - self.low])

    def alive(self, population: str) -> NDArray[np.bool_]:
        """(N,) vertices of the whole network that have not left this population."""
        return self.store[f"alive.{population}"]

    def samples(self, population: str, node: int) -> NDArray[np.int64]:
        """Return the positions, in the host's sample arrays, of the retained samples of a vertex."""
        first, last = self.offsets[node - self.low : node - self.low + 2]
        kept = self.store[f"keep.{population}"][first:last]
        return first + np.flatnonzero(kept)

    def slots(self, population: str, node: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the positions of all samples a vertex ever had, for their ids only, and which of them are retained."""
        first, last = self.offsets[node - self.low : node - self.low + 2]
        return np.arange(first, last), np.array(self.store[f"keep.{population}"][first:last])

    def batch(self, positions: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        """Return prepared inputs (b, ...) float32 and labels (b,) int64 of samples, on the block's device."""
        inputs = self.model.prepare(self.store["inputs"][positions])
        labels = torch.from_numpy(self.store["labels"][positions])
        if self.device.type != "cpu":
            inputs, labels = inputs.to(self.device), labels.to(self.device)
        return inputs, labels

    def sample_ids(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the stable ids (rows of the data set) of samples given by their positions."""
        return self.store["sample_ids"][positions]

    def vector(self, name: str) -> Tensor:
        """Return an input vector of the command on the block's device; on a CPU it shares the store's memory."""
        return torch.from_numpy(self.store[f"vector.{name}"]).to(self.device)

    def nodes(self, population: str, low: int, high: int) -> list[int]:
        """Return the alive vertices of this block with ``low <= id < high``."""
        alive = self.alive(population)
        first, last = max(low, self.low), min(high, self.high)
        return [int(i) for i in first + np.flatnonzero(alive[first:last])]
