"""Rows that travel between hosts: reading them, and mixing by any matrix, also over rows of past rounds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from fedunlearn.network.answer import Answer
from fedunlearn.network.population import FLOAT32, Population
from fedunlearn.network.transport import Reply, Request


@dataclass(frozen=True)
class Foreign:
    """What a mixing needs of other hosts: for each host the rows that travel, and which borders it reads."""

    halos: Answer[list[NDArray[np.float32]]]
    beside: Answer[list[dict[str, Any]]]


class RowExchange(Population):
    """A population whose rows can be read, and mixed wherever their vertices are."""

    def mix_by(self, weights: sparse.csr_array) -> None:
        """Mix once by a row-stochastic matrix (N, N); nothing is charged, and the population's rule comes back with
        :meth:`set_graph`."""
        self.begin_mix_by(weights)()

    def begin_mix_by(
        self, weights: sparse.csr_array, past: Sequence[int] = (), keep: int | None = None
    ) -> Callable[[], None]:
        """Begin to mix by a matrix over the rows now and in the slots ``past``: (N, (k + 1) N), block after block.

        The rows as they are before the mixing are kept in the slot ``keep``. What is returned ends the mixing.
        """
        self._send_weights(weights, past)
        foreign = self._foreign_rows(past)
        return lambda: self._mix_with(foreign, keep)

    def _mix_with(self, foreign: Foreign, keep: int | None = None) -> None:
        self.rows_changed()
        requests, borders = [], foreign.beside.get()  # which every host is asked for: one message to each, not two
        for halo, beside in zip(foreign.halos.get(), borders):
            params = {"population": self.name, **({} if keep is None else {"keep": keep}), **beside}
            requests.append(Request("mix", params, {"halo": halo} if len(halo) else {}))
        self.session.later_each(requests)

    def _foreign_rows(self, past: Sequence[int] = ()) -> Foreign:
        """Ask for the rows that mixing needs of other hosts."""
        borders = self._borders
        if borders is None:
            return Foreign(self._halos(self._outside, past), Answer([], (), self.session.flush, self._nothing_beside))
        self._turn = turn = 1 - self._turn
        request = Request("border", {"population": self.name, "turn": turn})
        nbytes = FLOAT32 * self.dim * sum(int((~border.travelling).sum()) for border in borders)

        def told(replies: list[Reply | None]) -> list[dict[str, Any]]:
            digests = [reply.params["digest"] for reply in replies if reply is not None]
            self.session.traffic["bytes_shared"] += nbytes
            by_host = [{str(host): digests[host] for host in border.read} for border in borders]
            return [{"beside": each, "turn": turn} if each else {} for each in by_host]

        # Everybody is asked, also who has no border: nobody then begins a third border before all have read the first.
        beside = self.session.asked([request for _ in borders], told)
        return Foreign(self._halos([o[b.travelling] for o, b in zip(self._outside, borders)]), beside)

    def _nothing_beside(self, replies: list[Reply | None]) -> list[dict[str, Any]]:
        return [{} for _ in self.session.blocks]

    def _halos(
        self, outside: Sequence[NDArray[np.int64]], past: Sequence[int] = ()
    ) -> Answer[list[NDArray[np.float32]]]:
        """Ask for every row that crosses a block border once, to be sorted out by the host that needs them."""
        needed = np.unique(np.concatenate([np.zeros(0, np.int64), *outside]))
        age, nodes = np.divmod(needed, self.num_nodes)
        parts = [self._fetched("export", nodes[age == 0])]
        parts += [self._fetched("export", nodes[age == a], slot) for a, slot in enumerate(past, start=1)]

        def sorted_out(rows: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            whole = [rows, *(part.get() for part in parts[1:])]  # asked for before the first is waited for
            every = np.concatenate(whole) if past else rows
            return [every[np.searchsorted(needed, o)] for o in outside]

        return parts[0].then(sorted_out)

    def read(self, node: int) -> NDArray[np.float32]:
        """Return the parameters of one vertex, (d,) float32."""
        return self.read_rows([node])[0]

    def read_rows(self, nodes: Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Return the parameters of several vertices, (k, d) float32; hosts that have none of them are not asked."""
        return self._fetched("read", np.asarray(nodes, dtype=np.int64)).get()

    def _fetched(self, op: str, nodes: NDArray[np.int64], past: int | None = None) -> Answer[NDArray[np.float32]]:
        chosen = [self.session.host_of[nodes] == host for host in range(len(self.session.blocks))]

        def joined(replies: list[Reply | None]) -> NDArray[np.float32]:
            if len(replies) == 1 and replies[0] is not None:
                return replies[0].arrays["rows"]
            rows = np.empty((len(nodes), self.dim), dtype=np.float32)
            for mask, reply in zip(chosen, replies):
                if reply is not None:
                    rows[mask] = reply.arrays["rows"]
            return rows

        params = {"population": self.name, **({} if past is None else {"past": past})}
        requests = [Request(op, params, {"nodes": nodes[c]}) if c.any() else None for c in chosen]
        return self.session.asked(requests, joined)
