"""Requests that arrive in the same window are answered as one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fedunlearn.requests.decisions import DeletionRequest
from fedunlearn.requests.docket import ROUNDING

_SEVERAL = "class"
"""Level of an answer to requests of several clients: like a class, it is a set of samples without one owner."""


def window_of(day: float, window: float) -> float:
    """Return the k of the interval ``[k * window, (k + 1) * window)`` that a day is in; infinity if no float is k."""
    return float(np.floor(day / window + ROUNDING))


def together(answered: Sequence[DeletionRequest], windows: Sequence[float]) -> tuple[DeletionRequest, ...]:
    """Return one request for each run of equal windows, numbered anew."""
    groups: list[list[DeletionRequest]] = []
    for place, request in enumerate(answered):
        if place and windows[place] == windows[place - 1]:
            groups[-1].append(request)
        else:
            groups.append([request])
    return tuple(_union(number, group) for number, group in enumerate(groups))


def _union(number: int, group: Sequence[DeletionRequest]) -> DeletionRequest:
    """Return the requests of a group as one.

    Its level is one that no theorem reads too mildly: of one client, ``client`` if it leaves by its own request, else
    ``sample``, whose bounds count samples; of several clients, ``class``, which is refused wherever a theorem is about
    one client's data.
    """
    first = group[0]
    if len(group) == 1:
        level, node, label = first.level, first.node, first.label
    else:
        nodes = {request.node for request in group}
        node = first.node if len(nodes) == 1 else None
        level = _SEVERAL if node is None else "client" if any(r.level == "client" for r in group) else "sample"
        label = None
    return DeletionRequest(
        number, level, node, label, np.sort(np.concatenate([request.sample_ids for request in group])),
        tuple(vertex for request in group for vertex in request.leaves),
        tuple(asked for request in group for asked in request.asked),
        tuple(dict.fromkeys(asker for request in group for asker in request.askers)),
    )  # fmt: skip
