"""What a host answers about rows at its border: laying them out for hosts beside it, and reading theirs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.network.borders import TRAVELS, Beside, border_name, digest_of, find_border
from fedunlearn.network.host_state import StateOperations
from fedunlearn.network.transport import Reply


class BorderOperations(StateOperations):
    """The operations of a :class:`~fedunlearn.network.host.Host` that hosts on one machine share rows by."""

    beside: Beside

    def _border(self, params: dict[str, Any], arrays: dict[str, np.ndarray]) -> Reply:
        """Lay out the rows that hosts beside this one need, (b, d), and tell their digest."""
        population = params["population"]
        name, nodes = border_name(population, params["turn"]), self.store[f"weights.{population}.border"]
        shape = (len(nodes), self.block.model.dim)
        if name not in self.store or self.store[name].shape != shape:
            self.store.create(name, shape, np.float32)
            self.block.generation += 1
            self.store.forget_handles()
        border, rows = self.store[name], self.store[f"theta.{population}"]
        for place, node in enumerate(nodes.tolist()):
            border[place] = rows[self.block.place(node)]
        return Reply({"digest": digest_of(border)})

    def _fill_halo(self, population: str, turn: int, hosts: Sequence[int]) -> None:
        """Put the rows of hosts beside this one where mixing looks for them; the door has checked their borders."""
        holders, at = (self.store[f"weights.{population}.{part}"] for part in ("holders", "at"))
        for host in hosts:
            border = find_border(self.beside(host), border_name(population, turn))
            if border is None:
                raise UserError(f"host {host} has removed the rows that it shared; start the run again")
            mine = holders == host
            self.store[f"halo.{population}"][mine] = border[at[mine]]

    def _travelled(self, population: str) -> NDArray[np.bool_] | slice:
        """Return which rows of the halo come in messages."""
        name = f"weights.{population}.holders"
        return self.store[name] == TRAVELS if name in self.store else slice(None)
