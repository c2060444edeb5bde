"""What a host knows of its populations and stored arrays while it reads a message, request after request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.network.block import Block
from fedunlearn.network.borders import TRAVELS, Beside, nobody_beside, rows_read
from fedunlearn.network.messages.kinds import MOST_SLOTS, Refused, Spec, is_free
from fedunlearn.paths import is_plain_name


@dataclass
class Population:
    """What the door knows of a population after the requests that come before in the same message."""

    momentum: bool
    mixes: bool
    halo: int
    """How many foreign rows come in a message."""
    beside: dict[int, int] = field(default_factory=dict)
    """The hosts whose borders are read, and how many rows a border must have for that."""
    borders: bool = False
    """Whether it lays out a border."""
    labels: set[str] = field(default_factory=set)
    past: set[int] = field(default_factory=set)
    deleted: NDArray[np.int64] | None = None
    """What it was made without, where an earlier request of the message makes it."""
    erased: list[NDArray[np.int64]] = field(default_factory=list)


class Doorway:
    """What is there after the requests that come before in the same message; none of them has been carried out yet."""

    def __init__(self, block: Block, beside: Beside = nobody_beside) -> None:
        self.beside = beside
        self.block, self.store, self.model = block, block.store, block.model
        self.own = block.ids
        self.sizes = {"n": len(self.own), "N": block.num_nodes, "d": block.model.dim}
        self.populations: dict[str, Population | None] = {}
        self.put: dict[str, np.ndarray] = {}
        self.erased: list[NDArray[np.int64]] = []

    def population(self, name: Any) -> Population:
        """Return what is known of a population that must exist."""
        found = self.known(name)
        if found is None:
            raise Refused(f"there is no population '{str(name)[:60]}'")
        return found

    def known(self, name: Any) -> Population | None:
        """Return what is known of a population, or None where there is none."""
        if not (is_plain_name(name) and "." not in name):
            raise Refused(f"'{str(name)[:60]}' cannot be the name of a population")
        if name not in self.populations:
            there = f"theta.{name}" in self.store
            self.populations[name] = self._in_store(name) if there else None
        return self.populations[name]

    def _in_store(self, name: str) -> Population:
        halo = len(self.store[f"halo.{name}"]) if f"halo.{name}" in self.store else 0
        mixes, momentum = f"weights.{name}.data" in self.store, f"momentum.{name}" in self.store
        if f"weights.{name}.holders" not in self.store:
            return Population(momentum, mixes, halo)
        holders = self.store[f"weights.{name}.holders"]
        needed = rows_read(holders, self.store[f"weights.{name}.at"])
        return Population(momentum, mixes, int((holders == TRAVELS).sum()), needed, True)

    def slots(self, name: str, past: Sequence[int]) -> Population:
        """Return a population that keeps the rows of past rounds in all these slots."""
        known = self.population(name)
        for slot in past:
            there = 0 <= slot < MOST_SLOTS and known.deleted is None and f"past-{slot}.{name}" in self.store
            if slot not in known.past and not there:
                raise Refused(f"population '{name}' keeps no past rows in slot {str(slot)[:30]}")
        return known

    @staticmethod
    def label(label: str) -> str:
        """Return the label of a checkpoint if it can be one."""
        if not (is_plain_name(label) and "." not in label):
            raise Refused(f"'{label[:60]}' cannot be a label")
        return label

    def samples(self, parameter: str, name: Any) -> int:
        """Return the length of an array that was put on the host; samples must be such as the model takes."""
        if not is_free(name) or (name not in self.put and name not in self.store):
            raise Refused(f"nothing was put on this host under the name '{str(name)[:60]}'")
        array = self.put[name] if name in self.put else self.store[name]
        if parameter == "labels":
            Spec("int64", ("k",), low=0, high=self.model.num_classes).check(name, array, {})
        elif array.dtype not in (np.uint8, np.float32) or array.shape[1:] != tuple(self.model.input_shape):
            raise Refused(f"array '{name}' does not hold samples of shape {tuple(self.model.input_shape)}")
        return len(array)
