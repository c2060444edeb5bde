"""Counter-based randomness: every draw is a pure function of (seed, purpose, ids, round).

Two forms are offered. :func:`keys` hashes whole arrays of ids at once (for epoch orders and client sampling, where a
generator object a node would dominate the cost), and :func:`generator` makes a numpy ``Generator`` over Philox, whose
stream is fixed by its 128-bit key.
"""

from __future__ import annotations

import hashlib
import struct

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def _digest(seed: int, purpose: str, *ids: int) -> bytes:
    """Return 16 bytes that depend on every argument, with no two argument lists colliding by concatenation."""
    text = purpose.encode()
    head = struct.pack("<qq", seed, len(text))
    return hashlib.blake2b(head + text + struct.pack(f"<{len(ids)}q", *ids), digest_size=16).digest()


def generator(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    """Return a numpy generator whose stream depends only on ``(seed, purpose, *ids)``."""
    return np.random.Generator(np.random.Philox(key=int.from_bytes(_digest(seed, purpose, *ids), "little")))


def torch_seed(seed: int, purpose: str, *ids: int) -> int:
    """Return a 63-bit seed for ``torch.Generator.manual_seed`` fixed by ``(seed, purpose, *ids)``."""
    return int.from_bytes(_digest(seed, purpose, *ids)[:8], "little") >> 1


def _mix(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return the finaliser of SplitMix64 (Steele, Lea, Flood 2014), a bijection on 64-bit words."""
    z = (z ^ (z >> np.uint64(30))) * _MIX_1
    z = (z ^ (z >> np.uint64(27))) * _MIX_2
    return z ^ (z >> np.uint64(31))


def keys(seed: int, purpose: str, *ids: ArrayLike) -> NDArray[np.uint64]:
    """Return 64-bit hashes, one for each element of the broadcast integer ``ids``.

    A client's order of samples in an epoch is the argsort of ``keys(seed, "epoch", client, sample_ids, epoch)``: taking
    a sample away leaves the relative order of all others, and the orders of all other clients, untouched.
    """
    base = np.uint64(int.from_bytes(_digest(seed, purpose)[:8], "little"))
    shape = np.broadcast_shapes(*(np.shape(i) for i in ids))
    out = np.full(shape, base, dtype=np.uint64)
    with np.errstate(over="ignore"):
        for i in ids:
            word = np.asarray(i, dtype=np.int64).astype(np.uint64)
            out = _mix((out ^ _mix(word + _GOLDEN)) * _MIX_1 + _GOLDEN)
    return out


def uniforms(seed: int, purpose: str, *ids: ArrayLike) -> NDArray[np.float64]:
    """Return numbers in [0, 1) with 53 random bits, one for each element of the broadcast ids."""
    return (keys(seed, purpose, *ids) >> np.uint64(11)).astype(np.float64) * 2.0**-53
