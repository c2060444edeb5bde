"""Rounds carried out on arrays: the meaning of a round in numpy, and how far influence gets by it.

:class:`Carried` is the definition that the engine is tested against. :func:`influenced` carries out the same rounds on
one bit a vertex, "may depend on what was deleted", instead of on models.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fedunlearn.faults.course import Round


class Carried:
    """Rows (N, k) float64 that rounds act on: adoption first, then whatever local steps do to ``rows``, then gossip."""

    def __init__(self, rows: ArrayLike) -> None:
        self.rows = np.array(rows, dtype=np.float64)
        self.past: dict[int, NDArray[np.float64]] = {}

    def adopt(self, round_: Round, start: ArrayLike = 0.0) -> None:
        """Let the adopters of a round take over rows, all at once; ``start`` is the public start."""
        self.rows[round_.who.adopters] = self.rows[round_.who.sources]
        self.rows[round_.who.restarts] = start

    def mix(self, round_: Round) -> None:
        """Mix the rows as the round says: by its matrices on this and past rounds, or by the server's mean."""
        if round_.server:
            if round_.who.active.any():
                self.rows[round_.who.active] = self.rows[round_.who.active].mean(axis=0)
            return
        if round_.mixed is None:
            return
        self.past[round_.number] = self.rows.copy()
        mixed = np.zeros_like(self.rows)
        for age, matrix in enumerate(round_.mixed.matrices):
            if matrix.nnz:
                mixed += matrix @ self.past[round_.number - age]
        self.rows = mixed
        self.past.pop(round_.number - len(round_.mixed.matrices) + 1, None)


def influenced(
    rounds: Sequence[Round], sources: Collection[int], deleted_after: int,
    releases: Mapping[int, NDArray[np.bool_]] | None = None, before: NDArray[np.bool_] | None = None,
) -> NDArray[np.bool_]:  # fmt: skip
    """Return (rounds, N): whether a row may depend, after each round, on the data of ``sources``.

    A source that is active trains on that data in every round up to number ``deleted_after``, included, and no longer
    afterwards. ``releases`` give, for the round that one follows, the (N,) participants: their rows are overwritten by
    a vector that does not depend on the data, up to what its certificate says, and their momenta are cleared. A
    momentum depends on every model that its node has trained, and a trained row on it. ``before`` (N,) is what held
    before the first of the rounds. Who mixes, and whom a node adopts from, is public and tells nothing of the data.
    """
    sources = np.asarray(sorted(sources), dtype=np.int64)
    first = np.zeros(0, bool) if not rounds else np.zeros(len(rounds[0].who.here), dtype=bool)
    carried = Carried((first if before is None else before)[:, None])
    moving = carried.rows[:, 0] > 0  # momenta that may depend on the data
    found = []
    for round_ in rounds:
        carried.adopt(round_)
        if round_.number <= deleted_after:
            carried.rows[sources[round_.who.active[sources]]] = 1.0
        moving[round_.who.forget] = False
        moving[round_.who.crashed] = False
        carried.rows[round_.who.active & moving] = 1.0
        moving |= round_.who.active & (carried.rows[:, 0] > 0)
        carried.mix(round_)
        participants = (releases or {}).get(round_.number)
        if participants is not None:
            carried.rows[participants], moving[participants] = 0.0, False
        carried.rows = (carried.rows > 0).astype(np.float64)
        found.append(carried.rows[:, 0] > 0)
    return np.array(found).reshape(len(rounds), len(first))
