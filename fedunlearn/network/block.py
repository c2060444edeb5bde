"""What a program sees of a host: its vertices' rows, their retained samples, and the model."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedunlearn.errors import UserError
from fedunlearn.models import Model
from fedunlearn.network.store import Store

_NOWHERE = np.iinfo(np.int64).max
"""The place of a vertex of another host."""


class Block:
    """A host's block of vertices, ``low <= position < high`` in the session's order, as every worker sees it.

    Vertices are named by their ids everywhere; ``order`` (N,) has the id at every position, ``ids`` (n,) those of the
    block. :meth:`place` is where a vertex lies in the block's arrays.

    Node programs get their samples through :meth:`samples` only, which gives retained samples and nothing else.
    """

    def __init__(self, folder: Path) -> None:
        self.store = Store(folder)
        self.spec: dict[str, Any] = self.store.read_json("block")
        self.low, self.high = (int(i) for i in self.spec["block"])
        self.num_nodes = int(self.spec["num_nodes"])
        self.device = torch.device(self.spec["device"])
        self.generation = 0
        identity = "order" not in self.store
        self.order: NDArray[np.int64] = np.arange(self.num_nodes) if identity else np.array(self.store["order"])
        self.ids = self.order[self.low : self.high]
        self.by_id = np.argsort(self.ids)
        """(n,) places in ascending order of ids: how rows travel."""
        self._place = np.full(self.num_nodes, _NOWHERE)
        self._place[self.ids] = np.arange(len(self.ids))

    def place(self, node: int) -> int:
        """Return where a vertex of the block lies in its arrays; using that of another vertex is an IndexError."""
        return int(self._place[node])

    def places(self, nodes: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """Return where several vertices of the block lie in its arrays, (k,)."""
        return self._place[np.asarray(nodes, dtype=np.int64)]

    def holds(self, nodes: Sequence[int] | NDArray[np.int64]) -> bool:
        """Return whether all these vertices of the network are in the block."""
        return bool((self.places(nodes) != _NOWHERE).all())

    def position(self, node: int) -> int:
        """Return the position of a vertex of the block in the order of all vertices."""
        return self.low + self.place(node)

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
        return torch.from_numpy(self.store[f"theta.{population}"][self.place(node)])

    def momentum(self, population: str, node: int) -> Tensor:
        """Return the momentum of a vertex, (d,) float32, as memory shared with the store."""
        return torch.from_numpy(self.store[f"momentum.{population}"][self.place(node)])

    def alive(self, population: str) -> NDArray[np.bool_]:
        """(N,) vertices of the whole network that have not left this population."""
        return self.store[f"alive.{population}"]

    def span(self, node: int) -> tuple[int, int]:
        """Return where the samples of a vertex begin and end in the host's sample arrays."""
        place = self.place(node)
        return int(self.offsets[place]), int(self.offsets[place + 1])

    def samples(self, population: str, node: int) -> NDArray[np.int64]:
        """Return the positions, in the host's sample arrays, of the retained samples of a vertex."""
        first, last = self.span(node)
        kept = self.store[f"keep.{population}"][first:last]
        return first + np.flatnonzero(kept)

    def slots(self, population: str, node: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the positions of all samples a vertex ever had, for their ids only, and which of them are retained."""
        first, last = self.span(node)
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
        """Return an input vector of the command on the block's device; on a CPU it shares the store's memory.

        Raises:
            UserError: if none came with the command. A program declares what it reads, so that hosts refuse such a
                command before they carry it out.
        """
        return torch.from_numpy(self.array(name)).to(self.device)

    def array(self, name: str) -> NDArray[np.float64]:
        """Return an input vector of the command as it lies in the store; UserError if none came with it."""
        if f"vector.{name}" not in self.store:
            raise UserError(f"a node program reads the vector '{name}', which did not come with its message")
        return self.store[f"vector.{name}"]

    def nodes(self, population: str, low: int, high: int) -> list[int]:
        """Return the alive vertices of this block at the positions ``low <= p < high``, in the session's order."""
        own = self.order[max(low, self.low) : max(low, min(high, self.high))]
        return own[self.alive(population)[own]].tolist()
