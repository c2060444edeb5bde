"""Sum programs of a search on a softmax head without bias: what one point gave is kept for the products at that point.

They are generators: called once for all vertices of a range, they yield one float64 vector a vertex. Each vertex is
computed by itself, so its bits do not depend on who else is in the range. A gradient leaves each record's probabilities
(float32) in the host's array ``room``, and in ``points.<population>`` a fingerprint of the point; products at that
point read them instead of computing logits again. Products are in float32: they steer a search, and what is certified
rests on the float64 gradient alone. The host poisons both arrays when samples are erased, when a vertex leaves, and
when it is wiped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fedunlearn.models import Model
from fedunlearn.network.block import Block
from fedunlearn.network.declared import node_program

Vectors = Iterator[NDArray[np.float64]]


def _usable(model: Model, population: str, params: Mapping[str, Any]) -> str | None:
    """Return why these programs cannot run on a model with these parameters, or None."""
    if params["room"] != f"probabilities.{population}":
        return "parameter 'room' does not name the population's own array"
    if not model.convex or model.dim != model.num_classes * model.input_shape[0]:
        return "the model is no softmax head without bias"
    if params["weighting"] not in ("equal", "samples") or params["clients"] < 0 or params["total"] < 0:
        return "parameters 'weighting', 'clients' and 'total' do not say how records count"
    return None


def _with_diagonal(model: Model, params: Mapping[str, Any], samples: Mapping[str, int]) -> int:
    return (2 if params.get("diagonal") else 1) * model.dim


@node_program("sum", vectors={"at": "d"}, check=_usable, size=_with_diagonal)
def gradient(
    block: Block, population: str, nodes: list[int], *, at: str, room: str, weighting: str, clients: int, total: int,
    diagonal: bool = False,
) -> Vectors:  # fmt: skip
    """Yield every vertex's share of the gradient of the data term at the vector ``at``, (d,).

    With ``diagonal`` the diagonal of its Hessian follows, (2d,): what a preconditioner is matched with comes along in
    the same all-reduce.
    """
    point = block.vector(at)
    weights, print_ = point.reshape(block.model.num_classes, -1), _fingerprint(point)
    for node in nodes:
        chosen = _chosen(block, population, node)
        a32, y = _records(block, chosen)
        if not len(y):
            yield np.zeros(len(point) * (2 if diagonal else 1))
            continue
        a = a32.to(torch.float64)
        p = _probabilities(weights, a)
        _keep(block, population, node, room, chosen, p, print_)
        share = _share(weighting, len(y), clients, total)
        curved = (p - p.square()).T @ a.square() if diagonal else None
        p[torch.arange(len(y)), y] -= 1.0
        found = (p.T @ a).reshape(-1)
        yield (found if curved is None else torch.cat([found, curved.reshape(-1)])).numpy() * share


@node_program("sum", vectors={"at": "d", "direction": "d"}, check=_usable)
def hessian_vector(
    block: Block, population: str, nodes: list[int], *, at: str, direction: str, room: str, weighting: str,
    clients: int, total: int,
) -> Vectors:  # fmt: skip
    """Yield every vertex's share of ``Hess(data term)(at) direction``, (d,), computed in float32."""
    point = block.vector(at)
    print_, classes = _fingerprint(point), block.model.num_classes
    along = block.vector(direction).to(torch.float32).reshape(classes, -1).T
    for node in nodes:
        chosen = _chosen(block, population, node)
        a, y = _records(block, chosen)
        if not len(y):
            yield np.zeros(len(point))
            continue
        # The last bits of a float32 product depend on where its factors begin in memory: a copy begins like any other.
        a = a.clone()
        if int(block.store[f"points.{population}"][block.place(node)]) == print_:
            p = torch.from_numpy(block.store[room][chosen]).clone()
        else:
            exact = _probabilities(point.reshape(classes, -1), a.to(torch.float64))
            p = _keep(block, population, node, room, chosen, exact, print_)
        pu = p * (a @ along)
        pu.addcmul_(p, pu.sum(1, keepdim=True), value=-1.0)
        yield (pu.T @ a).reshape(-1).numpy().astype(np.float64) * _share(weighting, len(y), clients, total)


def _chosen(block: Block, population: str, node: int) -> slice | NDArray[np.int64]:
    """Return where the retained samples of a vertex lie; a slice, which copies nothing, where all are retained."""
    first, last = block.span(node)
    kept = block.store[f"keep.{population}"][first:last]
    return slice(first, last) if kept.all() else first + np.flatnonzero(kept)


def _records(block: Block, chosen: slice | NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Return inputs (n, q) float32 and labels (n,)."""
    rows = torch.from_numpy(block.store["inputs"][chosen])
    return rows, torch.from_numpy(block.store["labels"][chosen])


def _probabilities(weights: Tensor, a: Tensor) -> Tensor:
    """Return softmax(a weights^T), in the order of operations that the rounding bound of the gradient assumes."""
    z = a @ weights.T
    z.sub_(z.amax(1, keepdim=True)).exp_()
    return z.div_(z.sum(1, keepdim=True))


def _keep(
    block: Block, population: str, node: int, room: str, chosen: slice | NDArray[np.int64], p: Tensor, print_: int
) -> Tensor:
    """Leave the probabilities of a vertex's records, rounded to float32, for the products at the same point."""
    rounded = p.to(torch.float32)
    block.store[room][chosen] = rounded.numpy()
    block.store[f"points.{population}"][block.place(node)] = print_
    return rounded


def _fingerprint(point: Tensor) -> int:
    """Return 63 bits of a hash of the point, never zero: zero says that nothing is kept."""
    digest = hashlib.blake2b(point.numpy().tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1 | 1


def _share(weighting: str, count: int, clients: int, total: int) -> float:
    return 1.0 / (clients * count) if weighting == "equal" else 1.0 / total
