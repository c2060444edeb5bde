"""The conductor's door: a host's answer is checked before anything is made of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fedunlearn.errors import UserError
from fedunlearn.network.messages.kinds import (
    SLOTS,
    Refused,
    Spec,
    at_least,
    check_arrays,
    check_params,
    fits,
    is_digest,
)
from fedunlearn.network.transport import Reply, Request


def check_reply(
    request: Request, reply: Reply, host: int, own: NDArray[np.int64], num_nodes: int, dim: int, low: int | None = None
) -> None:
    """Check a host's answer to a request, and its answers to the requests before it, before anything is made of them.

    Args:
        request: what was sent.
        reply: what came back.
        host: number of the host, for the sentence.
        own: the vertices it carries, in the session's order.
        num_nodes: vertices of the network.
        dim: parameters of the model.
        low: position of its first vertex in the session's order; by default, that of ids, the vertex itself.

    Raises:
        UserError: one sentence, where a reply is not one to this request.
    """
    if len(reply.before) != len(request.before):
        raise UserError(f"host {host} gave {len(reply.before)} answers to {len(request.before)} requests")
    for asked, answered in zip((*request.before, request), (*reply.before, reply)):
        sizes = {"n": len(own), "N": num_nodes, "d": dim, "low": int(own[0]) if low is None and len(own) else low or 0}
        try:
            _REPLIES.get(asked.op, _empty)(asked, answered, own, sizes)
        except Refused as error:
            raise UserError(f"host {host} gave a malformed answer to '{asked.op}': {error}") from None


def _empty(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    check_params(reply.params, {})
    check_arrays(reply.arrays, {}, {}, sizes)


def _sick(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    check_params(reply.params, {"sick": int | None})
    check_arrays(reply.arrays, {}, {}, sizes)
    if reply.params["sick"] is not None and reply.params["sick"] not in own:
        raise Refused("it tells of a vertex of another host")


def _sick_of_rounds(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    check_params(reply.params, {"sick": dict[str, Any]})
    check_arrays(reply.arrays, {}, {}, sizes)
    found, (first, last) = reply.params["sick"], request.params["rounds"]
    if set(found) != {work["population"] for work in request.params["work"]}:
        raise Refused("it does not tell of the populations that were asked for")
    for pair in found.values():
        if pair is not None and not (
            fits(pair, list[int]) and len(pair) == 2 and first <= pair[0] <= last and pair[1] in own
        ):
            raise Refused("it tells of a round or a vertex that was not asked for")


def _set_up(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    check_params(reply.params, {}, {"place": str})
    check_arrays(reply.arrays, {}, {}, sizes)


def _digest(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    check_params(reply.params, {"digest": str})
    check_arrays(reply.arrays, {}, {}, sizes)
    if not is_digest(reply.params["digest"]):
        raise Refused("parameter 'digest' is none")


def _erased(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    check_params(reply.params, {"erased": int})
    at_least(reply.params, erased=0)
    check_arrays(reply.arrays, {}, {}, sizes)


def _sums(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    check_params(reply.params, {})
    if not len(reply.arrays.get("keys", ())):  # no vertex of this host takes part
        check_arrays(reply.arrays, {"keys": Spec("int64", (0, 2)), "sums": Spec("float64", (0, "any"))}, {}, sizes)
        return
    width = request.params["dim"]
    needed = {"keys": Spec("int64", ("k", 2), low=0), "sums": Spec("float64", ("k", width), finite=False)}
    check_arrays(reply.arrays, needed, {}, sizes)
    depth = max(1, sizes["N"] - 1).bit_length()
    seen = set()
    for level, index in reply.arrays["keys"].tolist():
        low, high = index << min(level, 64), (index + 1) << min(level, 64)
        if level > depth or low >= sizes["low"] + len(own) or high <= sizes["low"] or (level, index) in seen:
            raise Refused(f"it holds a sum over ({level}, {index}), which this host has no part in")
        seen.add((level, index))


def _measured(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    check_params(reply.params, {})
    check_arrays(reply.arrays, {"values": Spec("float64", ("n", request.params["width"]), finite=False)}, {}, sizes)


def _token(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    check_params(reply.params, {})
    check_arrays(reply.arrays, {"token": Spec("float64", request.arrays["token"].shape, finite=False)}, {}, sizes)


def _read_rows(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    check_params(reply.params, {})
    rows = Spec("float32", (len(request.arrays["nodes"]), "d"), finite=request.op == "export")
    check_arrays(reply.arrays, {"rows": rows}, {}, sizes)


def _saved(request: Request, reply: Reply, own: NDArray[np.int64], sizes: dict[str, int]) -> None:
    check_params(reply.params, {})
    rows = Spec("float32", ("n", "d"), finite=False)
    copies = [name for name in reply.arrays if name.startswith("checkpoint-") or name in SLOTS]
    copies = copies if request.params.get("copies") else []
    check_arrays(reply.arrays, {"theta": rows}, {"momentum": rows, **dict.fromkeys(copies, rows)}, sizes)


_REPLIES: dict[str, Callable[[Request, Reply, NDArray[np.int64], dict[str, int]], None]] = {
    "setup": _set_up, "border": _digest, "rows": _sick, "rounds": _sick_of_rounds, "erase": _erased, "sum": _sums,
    "measure": _measured, "walk": _token, "read": _read_rows, "export": _read_rows, "save": _saved,
}  # fmt: skip
